use std::collections::BTreeSet;

use crate::types::Mode;
use proptest::prelude::*;

use super::*;

fn server(name: &str) -> Server {
    Server {
        name: name.into(),
        host: format!("host-of-{name}"),
        age: TimeDelta::days(9),
        health: Health::Live,
        admin_state: AdminState::InService,
        reason: None,
        since: TimeDelta::days(1),
        given_up_in: None,
        syncing: false,
        alarmed: false,
        trouble: None,
        failing: false,
        downs: Vec::new(),
        starts: Vec::new(),
        clock_ahead_ms: 0,
        answer_ms: 3,
        capacity_bytes: 1 << 40,
        free_bytes: 1 << 39,
        full_in: None,
        corrupt_lately: 0,
        drain_left: 0,
    }
}

fn well() -> Facts {
    Facts {
        database: Database::Well,
        mode: Mode::Normal,
        mode_reason: None,
        restore_step: None,
        age: TimeDelta::days(9),
        servers: ["s0", "s1", "s2"].map(server).to_vec(),
        allow_same_host: false,
        write_needs: 2,
        copies_wanted: 2,
        counted: Ok(Counted { objects: 9, ..Counted::default() }),
        mass_down_share: 0.5,
        leaderless: None,
        rebalance: None,
        failing: Vec::new(),
        knocking: Vec::new(),
        foreign: None,
        strangers: Vec::new(),
        certificate: None,
        no_room: None,
        disk: Some((1 << 40, 1 << 41)),
        counts_mended: None,
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = well();
    change(&mut facts);
    facts
}

fn counted(facts: &mut Facts, change: impl FnOnce(&mut Counted)) {
    change(facts.counted.as_mut().unwrap());
}

fn short(copies: u32, objects: u64) -> CopiesCount {
    CopiesCount { copies, objects, bytes: 1_887_437 }
}

fn down(facts: &mut Facts, at: usize, given_up_in: Option<i64>) {
    let server = &mut facts.servers[at];
    (server.health, server.since, server.reason) = (Health::Down, TimeDelta::seconds(9), Some("no answer".into()));
    server.given_up_in = given_up_in.map(TimeDelta::seconds);
}

fn failing(actor: &str, error: &str) -> Vec<Failing> {
    vec![Failing { actor: actor.into(), failures: 5, since: TimeDelta::seconds(20), error: error.into() }]
}

/// Each code with a state in which it is told, its severity there, and what must be in its words.
fn cases() -> Vec<(Code, Facts, Severity, Vec<&'static str>)> {
    use Severity::*;
    let read_only =
        |reason: &'static str| with(|facts| (facts.mode, facts.mode_reason) = (Mode::ReadOnly, Some(reason.into())));
    let of_first = |change: fn(&mut Server)| with(|facts| change(&mut facts.servers[0]));
    let trouble = |code| {
        with(|facts| {
            facts.servers[0].trouble = Some(code);
            facts.servers[0].reason = Some("the disk says no".into());
        })
    };
    let ago = |seconds: &[i64]| seconds.iter().map(|seconds| TimeDelta::seconds(*seconds)).collect::<Vec<_>>();
    vec![
        (
            Code::DatabaseUnreachable,
            with(|facts| {
                facts.database = Database::Unreachable("connection refused".into());
                facts.counted = Err("x".into());
            }),
            Danger,
            vec!["connection refused", "start the database again"],
        ),
        (
            Code::DatabaseDamaged,
            with(|facts| facts.database = Database::Damaged("/m.sqlite is damaged".into())),
            Danger,
            vec!["/m.sqlite is damaged", "`holdfast restore`"],
        ),
        (Code::DatabaseDamaged, read_only("the database x is damaged (y)"), Danger, vec!["is damaged"]),
        (Code::DatabaseSetBack, read_only("the database was set back"), Danger, vec!["`holdfast restore`"]),
        (Code::DatabaseSetBack, read_only("the database has lost changes: …"), Danger, vec!["writes are refused"]),
        (Code::ReadOnly, read_only("a person wanted it"), Danger, vec!["a person wanted it"]),
        (
            Code::DatabaseFull,
            with(|facts| {
                facts.failing = failing("LeaseKeeper", "the database has no room left; free some on its disk")
            }),
            Danger,
            vec!["writes are refused"],
        ),
        (Code::DatabaseFull, with(|facts| facts.disk = Some((1_000, 1 << 40))), Danger, vec!["make room"]),
        (
            Code::DatabaseDiskLow,
            with(|facts| facts.disk = Some((90 << 20, 1 << 40))),
            Degraded,
            vec!["90.0 MiB of 1.0 TiB"],
        ),
        (
            Code::WaitsForRestore,
            with(|facts| facts.mode = Mode::Restoring),
            Danger,
            vec!["no metadata", "`holdfast restore`"],
        ),
        (
            Code::Restoring,
            with(|facts| (facts.mode, facts.restore_step) = (Mode::Restoring, Some("reading".into()))),
            Danger,
            vec!["reading", "`holdfast restore --status`"],
        ),
        (
            Code::ForeignServers,
            with(|facts| {
                facts.foreign = Some((vec!["s7".into()], "c".into()));
                counted(facts, |counted| counted.objects = 0);
            }),
            Danger,
            vec!["s7", "`holdfast restore`"],
        ),
        (
            Code::WritesRefused,
            with(|facts| facts.servers.iter_mut().for_each(|server| server.admin_state = AdminState::Draining)),
            Danger,
            vec!["0 storage servers take files", "2 are needed", "`holdfast undrain s0` and `holdfast undrain s1`"],
        ),
        (
            Code::WritesRefused,
            with(|facts| {
                facts.servers.iter_mut().for_each(|server| server.host = "one".into());
                facts.servers[0].trouble = Some(TroubleCode::ReadOnly);
            }),
            Danger,
            vec!["1 storage servers take files on hosts of their own", "see below what s0 lack", "start more"],
        ),
        (
            Code::WritesRefused,
            with(|facts| {
                facts.age = TimeDelta::seconds(3);
                facts.servers.clear();
            }),
            Notice,
            vec!["the cluster is new", "0 storage servers have come so far"],
        ),
        (
            Code::StorageFull,
            with(|facts| facts.servers.iter_mut().for_each(|server| server.free_bytes = 99)),
            Danger,
            vec!["0 storage servers have room", "`holdfast df`"],
        ),
        (
            Code::Unreadable,
            with(|facts| {
                counted(facts, |counted| counted.short = vec![short(0, 4)]);
                down(facts, 1, Some(21));
            }),
            Danger,
            vec!["4 objects cannot be read", "start s1 again"],
        ),
        (
            Code::Lost,
            with(|facts| {
                counted(facts, |counted| {
                    (counted.short, counted.lost, counted.lost_labels) = (vec![short(0, 1)], 1, vec!["/a".into()]);
                });
            }),
            Danger,
            vec!["no copy is left of 1 object, for instance /a", "`holdfast events --kind last_copy_corrupt`"],
        ),
        (
            Code::SingleCopy,
            with(|facts| {
                counted(facts, |counted| counted.short = vec![short(1, 93)]);
                down(facts, 1, Some(21));
            }),
            Danger,
            vec!["93 objects hang on a single copy (1.8 MiB)", "93 objects, 1.8 MiB, begin to be copied in 21 s"],
        ),
        (
            Code::ShortOfCopies,
            with(|facts| {
                facts.copies_wanted = 3;
                counted(facts, |counted| {
                    (counted.short, counted.queued, counted.done_in) =
                        (vec![short(2, 7)], 7, Some(TimeDelta::minutes(4)));
                });
            }),
            Degraded,
            vec!["7 objects have 2 copies", "about 4 min left"],
        ),
        (
            Code::RepairPaused,
            with(|facts| {
                down(facts, 1, None);
                down(facts, 2, None);
            }),
            Danger,
            vec!["2 of 3", "`holdfast drain s1`, `holdfast drain s2`"],
        ),
        (
            Code::RepairStuck,
            with(|facts| counted(facts, |counted| counted.stuck = Some((2, "no room".into())))),
            Degraded,
            vec!["2 objects", "no room", "`holdfast why PATH`"],
        ),
        (Code::NotCounted, with(|facts| facts.counted = Err("timeout".into())), Degraded, vec!["timeout"]),
        (
            Code::CountsMended,
            with(|facts| facts.counts_mended = Some(TimeDelta::minutes(3))),
            Notice,
            vec!["wrong until 3 min", "put right", "`holdfast events --kind counts_mended`"],
        ),
        (
            Code::NobodyActs,
            with(|facts| facts.leaderless = Some(TimeDelta::seconds(40))),
            Degraded,
            vec!["for 40 s", "`holdfast actors`"],
        ),
        (
            Code::ActorFails,
            with(|facts| facts.failing = failing("Reaper", "the pass panicked: x")),
            Degraded,
            vec!["Reaper has failed 5 times in a row for 20 s: the pass panicked: x"],
        ),
        (
            Code::JournalBehind,
            with(|facts| {
                facts.failing = failing("JournalKeeper", "s1: it hangs");
                counted(facts, |counted| counted.journal_lag = TimeDelta::seconds(30));
            }),
            Degraded,
            vec!["the last 30 s", "because of this: s1: it hangs"],
        ),
        (
            Code::JournalBehind,
            with(|facts| counted(facts, |counted| counted.journal_changes = 600_000)),
            Danger,
            vec!["600,000 changes", "refused when it is a million"],
        ),
        (
            Code::DeletionsWait,
            with(|facts| counted(facts, |counted| counted.deletions = 20_000)),
            Notice,
            vec!["20,000 deletions wait", "they go on by themselves"],
        ),
        (
            Code::ServerDown,
            with(|facts| down(facts, 1, Some(21))),
            Degraded,
            vec!["s1 is down since 9 s: no answer", "`holdfast drain s1`", "`holdfast remove s1`"],
        ),
        (
            Code::ServerDown,
            with(|facts| {
                down(facts, 1, None);
                facts.servers[1].admin_state = AdminState::Drained;
            }),
            Notice,
            vec!["if it will not come back, `holdfast remove s1`"],
        ),
        (Code::ServerSuspect, of_first(|server| server.health = Health::Suspect), Degraded, vec!["s0 is suspect"]),
        (
            Code::ServerSuspect,
            of_first(|server| (server.health, server.age) = (Health::Suspect, TimeDelta::seconds(1))),
            Notice,
            vec!["s0 is suspect"],
        ),
        (Code::ServerSyncing, of_first(|server| server.syncing = true), Notice, vec!["still being compared"]),
        (
            Code::ServerFlaps,
            with(|facts| facts.servers[0].downs = ago(&[20, 60, 100, 140])),
            Degraded,
            vec!["4 times", "`holdfast events --server s0`"],
        ),
        (
            Code::ServerRestarts,
            with(|facts| facts.servers[0].starts = ago(&[1, 3, 5, 7, 9])),
            Degraded,
            vec!["5 times", "log"],
        ),
        (Code::ServerSlow, of_first(|server| server.answer_ms = 1_500), Notice, vec!["1.5 s"]),
        (
            Code::ServerRefused,
            with(|facts| {
                let (name, url, why) = ("s9".into(), "http://h:1".into(), "two processes are s9".into());
                facts.knocking = vec![Knocking { name, url, why, still: true }];
            }),
            Degraded,
            vec!["s9 at http://h:1", "two processes"],
        ),
        (Code::SecretRefused, with(|facts| facts.strangers = vec!["10.0.0.7".into()]), Notice, vec!["10.0.0.7"]),
        (
            Code::ClocksApart,
            of_first(|server| server.clock_ahead_ms = -86_400_000),
            Degraded,
            vec!["s0 is 24 h behind", "timedatectl"],
        ),
        (
            Code::ClocksApart,
            with(|facts| facts.servers.iter_mut().for_each(|server| server.clock_ahead_ms = 86_400_000)),
            Degraded,
            vec!["all storage servers", "name server"],
        ),
        (
            Code::CertificateEnds,
            with(|facts| facts.certificate = Some("its TLS certificate ends on x".into())),
            Degraded,
            vec!["this name server: its TLS", "`holdfast certs renew --dir certs HOST`"],
        ),
        (
            Code::CertificateEnds,
            of_first(|server| server.reason = Some("its TLS certificate ends on x".into())),
            Degraded,
            vec!["storage server s0: its TLS"],
        ),
        (Code::DiskNotTrusted, of_first(|server| server.alarmed = true), Degraded, vec!["`holdfast drain s0`"]),
        (
            Code::DiskCorrupts,
            of_first(|server| server.corrupt_lately = 12),
            Degraded,
            vec!["12 copies", "`holdfast drain s0`"],
        ),
        (
            Code::CorruptCopies,
            of_first(|server| server.corrupt_lately = 1),
            Notice,
            vec!["1 copy on s0", "`holdfast events --kind replica_corrupt --server s0`"],
        ),
        (
            Code::DiskReadOnly,
            trouble(TroubleCode::ReadOnly),
            Degraded,
            vec!["s0 cannot keep new files: the disk says no"],
        ),
        (Code::DiskFails, trouble(TroubleCode::Hung), Degraded, vec!["`holdfast drain s0`"]),
        (Code::CannotKeep, trouble(TroubleCode::OutOfInodes), Degraded, vec!["what it has is well"]),
        (Code::DiskFull, of_first(|server| server.free_bytes = 1), Degraded, vec!["s0 is full", "`holdfast df`"]),
        (Code::DiskFills, of_first(|server| server.full_in = Some(TimeDelta::days(5))), Notice, vec!["in 5 days"]),
        (Code::DiskFills, of_first(|server| server.full_in = Some(TimeDelta::hours(5))), Degraded, vec!["in 5 h"]),
        (
            Code::DrainStuck,
            with(|facts| {
                facts.servers.pop();
                (facts.servers[0].admin_state, facts.servers[0].drain_left) = (AdminState::Draining, 624);
            }),
            Degraded,
            vec!["s0 cannot go on, 624 objects left", "1 other storage servers take files", "`holdfast undrain s0`"],
        ),
        (
            Code::Draining,
            of_first(|server| (server.admin_state, server.drain_left) = (AdminState::Draining, 2)),
            Notice,
            vec!["2 objects left"],
        ),
        (
            Code::Rebalancing,
            with(|facts| {
                facts.rebalance = Some(Rebalancing {
                    within_percent: 5,
                    moved_bytes: 3 << 20,
                    left_bytes: Some(1 << 20),
                    done_in: Some(TimeDelta::seconds(40)),
                    note: "it waits until s1 is well".into(),
                });
            }),
            Notice,
            vec!["within 5 %", "3.0 MiB moved", "about 1.0 MiB left", "about 40 s", "s1 is well", "rebalance --stop"],
        ),
    ]
}

#[test]
fn each_code_is_told_with_its_severity_and_its_words() {
    for (code, facts, severity, words) in cases() {
        let troubles = judge(&facts);
        let told = troubles.iter().find(|told| told.code == code.word());
        let told = told.unwrap_or_else(|| panic!("{code:?} is not told: {troubles:#?}"));
        assert_eq!(told.severity, severity, "{told:#?}");
        let text = format!("{}\n{}", told.what, told.remedy);
        for part in words {
            assert!(text.contains(part), "{code:?} lacks {part:?}: {text}");
        }
        assert!(!told.what.is_empty() && !told.remedy.is_empty() && told.remedy.matches('`').count().is_multiple_of(2));
    }
    let mut covered: BTreeSet<Code> = cases().into_iter().map(|(code, ..)| code).collect();
    // No name server says it of itself: see `of_several`.
    covered.insert(Code::NameServerAway);
    assert_eq!(covered.len(), Code::ALL.len(), "each code has a case");
}

#[test]
fn each_code_has_its_line_in_the_docs_and_nothing_else_has() {
    let docs = include_str!("../../../docs/operations.md");
    let table = docs.split("### Troubles").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(listed, codes);
}

#[test]
fn codes_are_distinct_words() {
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}

#[test]
fn a_well_cluster_is_healthy_and_a_new_one_too() {
    assert_eq!((judge(&well()), word(&[])), (Vec::new(), "healthy"));
    let new = with(|facts| {
        facts.age = TimeDelta::seconds(5);
        for server in &mut facts.servers {
            (server.age, server.syncing) = (TimeDelta::seconds(2), true);
        }
        facts.servers[0].health = Health::Suspect;
    });
    assert_eq!(word(&judge(&new)), "healthy", "{:#?}", judge(&new));
    let aged = Facts { age: TimeDelta::minutes(1), ..new };
    assert_eq!(word(&judge(&aged)), "danger");
}

#[test]
fn nothing_is_said_of_copies_while_nobody_knows() {
    for facts in [
        with(|facts| facts.mode = Mode::Restoring),
        with(|facts| (facts.mode, facts.mode_reason) = (Mode::ReadOnly, Some("set back".into()))),
        with(|facts| facts.database = Database::Unreachable("x".into())),
    ] {
        let facts = Facts { counted: Ok(Counted { short: vec![short(1, 4)], ..Counted::default() }), ..facts };
        let troubles = judge(&facts);
        assert_eq!((troubles.len(), word(&troubles)), (1, "danger"), "{troubles:#?}");
    }
}

#[test]
fn a_server_that_stays_has_come_to_rest() {
    let restarts = |seconds: &[i64]| {
        let starts: Vec<TimeDelta> = seconds.iter().map(|seconds| TimeDelta::seconds(*seconds)).collect();
        judge(&with(|facts| facts.servers[0].starts = starts)).iter().any(|told| told.code == "server_restarts")
    };
    assert!(restarts(&[1, 3, 5, 7]) && restarts(&[25, 27, 29, 31]) && restarts(&[500, 800, 1_100, 1_400]));
    assert!(!restarts(&[]) && !restarts(&[1, 3, 5]) && !restarts(&[31, 33, 35, 37]), "it has run for long enough");
    assert!(!restarts(&[1, 10, 20, 4_000]), "that was long ago");
}

#[test]
fn what_the_databases_trouble_brings_with_it_is_not_told_again() {
    let facts = with(|facts| {
        facts.database = Database::Unreachable("x".into());
        facts.failing = failing("Reaper", "the database cannot be reached");
    });
    assert!(judge(&facts).iter().all(|told| told.code != "actor_fails"));
}

proptest! {
    /// Whatever troubles come together: the worst is first, and the word is that of the worst.
    #[test]
    fn the_worst_comes_first(picked in proptest::collection::vec(0usize..100, 0..4), healths in proptest::collection::vec(0u8..3, 3)) {
        let all = cases();
        let mut facts = well();
        for at in &picked {
            let (_, other, ..) = &all[at % all.len()];
            facts.servers.extend(other.servers.iter().cloned());
            facts.failing.extend(other.failing.iter().cloned());
            facts.knocking.extend(other.knocking.iter().cloned());
            if other.mode != Mode::Normal {
                (facts.mode, facts.mode_reason) = (other.mode, other.mode_reason.clone());
            }
            if other.counted.as_ref().is_ok_and(|counted| !counted.short.is_empty()) {
                facts.counted = other.counted.clone();
            }
        }
        for (server, health) in facts.servers.iter_mut().zip(healths) {
            server.health = [Health::Live, Health::Suspect, Health::Down][health as usize];
        }
        let troubles = judge(&facts);
        prop_assert!(troubles.is_sorted_by_key(|told| std::cmp::Reverse(told.severity)));
        let worst = troubles.first().map(|told| told.severity);
        prop_assert_eq!(word(&troubles), match worst {
            Some(Severity::Danger) => "danger",
            Some(Severity::Degraded) => "degraded",
            _ => "healthy",
        });
    }
}
