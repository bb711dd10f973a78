//! The scripted night: what an operator meets, one trouble after the other, on real clusters.
//!
//! Each test makes a trouble, asks `holdfast report` as an operator would, checks that it names the trouble within ten
//! seconds, carries the remedy out that is printed, word for word, and checks that the cluster is healthy afterwards and
//! that every file is still there. `docs/operations.md` has the table of them as its runbook: it is what [`runbook`]
//! writes, and a test compares them.
//!
//! - `night`: how a trouble is made, looked at and mended
//! - `servers`, `network`, `disks`, `databases`, `people`: the troubles
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod databases;
mod disks;
mod network;
mod night;
mod people;
mod servers;

use std::path::Path;

use night::Trouble;

/// Where the runbook stands in `docs/operations.md`.
const BEGIN: &str = "<!-- runbook: made by scripts/night --runbook -->\n";
const END: &str = "<!-- end of the runbook -->\n";

/// Makes a test of each trouble, and a list of all.
macro_rules! troubles {
    ($($module:ident: $($name:ident),+;)+) => {
        $($(#[test] fn $name() { night::live_through($module::$name()); })+)+

        fn all() -> Vec<Trouble> { vec![$($($module::$name()),+),+] }
    };
}

troubles! {
    servers: a_server_is_killed, a_server_does_not_come_back, a_server_hangs, two_of_three_servers_are_down,
        too_few_servers_take_writes, one_copy_is_left, a_server_restarts_again_and_again, a_server_comes_and_goes,
        a_machine_is_cloned, a_server_has_another_secret, a_clock_is_a_day_ahead, the_journal_has_no_holders,
        a_removed_server_returns;
    network: a_server_is_slow, a_name_server_is_cut_off, one_of_two_name_servers_is_killed, the_name_server_hangs;
    disks: a_disk_is_read_only, a_disk_is_unmounted, a_disk_is_full, all_disks_are_full, a_copy_is_corrupt,
        the_last_copy_is_corrupt;
    databases: the_database_is_killed, the_database_is_set_back, the_database_is_set_back_on_postgres,
        the_database_is_gone, a_restore_is_interrupted, the_database_is_damaged, the_disk_of_the_database_is_full,
        the_database_is_full_on_postgres, a_table_is_locked, a_new_cluster_on_old_servers;
    people: too_much_is_drained, a_drain_cannot_end, a_certificate_ends, a_token_is_revoked,
        many_files_are_removed;
}

/// With `HOLDFAST_WRITE_RUNBOOK` set it writes the table instead of comparing it.
#[test]
fn the_runbook_in_the_documents_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the runbook");
    let (table, after) = rest.split_once(END).expect("the end of the runbook");
    let made = night::runbook(&all());
    if std::env::var_os("HOLDFAST_WRITE_RUNBOOK").is_some() {
        std::fs::write(&file, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
    } else {
        assert_eq!(table, made, "run scripts/night --runbook");
    }
}
