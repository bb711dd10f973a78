//! Storage servers that are gone, stand still, come and go, or are not what they say.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::cluster::Process;
use crate::common::{clock, wait_for};
use crate::night::Act::{Hands, Run};
use crate::night::{NAMED_WITHIN, Night, Trouble, nothing, plan};

/// Starts of a server that does not stay.
const STARTS: usize = 5;
/// A day, in milliseconds.
const DAY_MS: i64 = 86_400_000;

fn start_first(night: &mut Night) {
    night.cluster.storage[0].kill();
    night.cluster.storage[0].start();
}

pub fn a_server_is_killed() -> Trouble {
    Trouble {
        what: "A storage server is killed",
        plan,
        make: |night| night.cluster.storage[0].kill(),
        code: "server_down",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start storage-0 again", start_first)],
    }
}

pub fn a_server_does_not_come_back() -> Trouble {
    Trouble {
        what: "A storage server's machine is gone for good",
        plan,
        make: |night| night.cluster.storage[0].kill(),
        code: "server_down",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast drain storage-0"), Run("holdfast remove storage-0")],
    }
}

pub fn a_server_hangs() -> Trouble {
    Trouble {
        what: "A storage server hangs",
        plan,
        make: |night| night.cluster.storage[0].signal(Signal::STOP),
        code: "server_down",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start storage-0 again", start_first)],
    }
}

pub fn two_of_three_servers_are_down() -> Trouble {
    Trouble {
        what: "Two of three storage servers lose power",
        plan,
        make: |night| night.cluster.storage[..2].iter_mut().for_each(Process::kill),
        code: "unreadable",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start storage-0, storage-1 again", |night| {
            night.cluster.storage[..2].iter_mut().for_each(Process::start);
        })],
    }
}

pub fn too_few_servers_take_writes() -> Trouble {
    Trouble {
        what: "Two of three storage servers are stopped: writes are refused",
        plan,
        make: |night| night.cluster.storage[1..].iter_mut().for_each(Process::kill),
        code: "writes_refused",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start storage-1, storage-2 again", |night| {
            night.cluster.storage[1..].iter_mut().for_each(Process::start);
        })],
    }
}

pub fn one_copy_is_left() -> Trouble {
    Trouble {
        what: "One copy is left of some files, and repair has not begun",
        plan,
        make: |night| night.cluster.storage[1].kill(),
        code: "single_copy",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("nothing, if the server comes back", |night| night.cluster.storage[1].start())],
    }
}

pub fn a_server_restarts_again_and_again() -> Trouble {
    Trouble {
        what: "A storage server ends and is started again, over and over",
        plan,
        make: |night| {
            for _ in 0..STARTS {
                start_first(night);
                night.cluster.wait_for_live(3);
            }
        },
        code: "server_restarts",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("the end of its log says why it ended", nothing)],
    }
}

pub fn a_server_comes_and_goes() -> Trouble {
    Trouble {
        what: "A storage server's network comes and goes",
        plan,
        make: |night| {
            for _ in 0..STARTS {
                night.cluster.storage[0].signal(Signal::STOP);
                wait_for("it is down", 20, || (night.cluster.server(0)["health"] == "down").then_some(()));
                night.cluster.storage[0].signal(Signal::CONT);
                wait_for("it is live", 20, || (night.cluster.server(0)["health"] == "live").then_some(()));
            }
        },
        code: "server_flaps",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast events --server storage-0")],
    }
}

pub fn a_machine_is_cloned() -> Trouble {
    Trouble {
        what: "A storage server's machine is cloned, and the clone starts",
        plan,
        make: |night| {
            let (from, to) = (night.cluster.storage_dir(0), night.cluster.path("clone"));
            night.cluster.storage[0].kill();
            let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
            assert!(copied.success());
            night.cluster.storage[0].start();
            night.cluster.wait_for_live(3);
            let clone = night.cluster.another_storage_server(&to, "clone", &[]);
            night.others.push(clone);
        },
        code: "server_refused",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("stop that server", |night| night.others.iter_mut().for_each(Process::kill))],
    }
}

pub fn a_server_has_another_secret() -> Trouble {
    Trouble {
        what: "A storage server is started with another secret",
        plan,
        make: |night| {
            let server = &mut night.cluster.storage[0];
            server.kill();
            server.env.push(("HOLDFAST_CLUSTER_SECRET".into(), "f".repeat(32)));
            server.launch();
        },
        code: "secret_refused",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("give it the cluster's secret", |night| {
            night.cluster.storage[0].env.clear();
            start_first(night);
        })],
    }
}

pub fn a_clock_is_a_day_ahead() -> Trouble {
    Trouble {
        what: "A storage server's clock is a day ahead",
        plan,
        make: |night| {
            let dir = night.cluster.path("clock");
            fs::create_dir(&dir).unwrap();
            night.cluster.storage[0].env = clock::environment(&dir, DAY_MS);
            start_first(night);
        },
        code: "clocks_apart",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("set the clock by a time service", |night| {
            night.cluster.storage[0].env.clear();
            start_first(night);
        })],
    }
}

pub fn the_journal_has_no_holders() -> Trouble {
    Trouble {
        what: "All storage servers hang, and the journal's copies fall behind",
        plan,
        make: |night| {
            night.cluster.storage.iter().for_each(|server| server.signal(Signal::STOP));
            // A change that needs no storage server.
            night.cluster.ok(&["mv", "/f1", "/f-moved"]);
            let bytes = night.files.remove("/f1").unwrap();
            night.files.insert("/f-moved".into(), bytes);
            // It is told when it is fifteen seconds old.
            std::thread::sleep(Duration::from_secs(12));
        },
        code: "journal_behind",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("bring back the storage servers", |night| {
            night.cluster.storage.iter().for_each(|server| server.signal(Signal::CONT));
        })],
    }
}

pub fn a_removed_server_returns() -> Trouble {
    Trouble {
        what: "A storage server that was removed is started again: it ends with exit code 5",
        plan,
        make: |night| {
            night.cluster.ok(&["drain", "--wait", "storage-0"]);
            night.cluster.storage[0].kill();
            wait_for("it is removed", 30, || (night.cluster.run(&["remove", "storage-0"]).0 == 0).then_some(()));
            night.cluster.storage[0].launch();
            let status = wait_for("it is refused", 30, || night.cluster.storage[0].ended());
            assert_eq!(status.code(), Some(5));
            assert!(night.cluster.storage[0].log().contains("`holdfast undrain "), "its last line has the way back");
        },
        code: "server_refused",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("do what the sentence says", |night| {
            night.do_what_the_sentence_says();
            night.cluster.storage[0].start();
            night.cluster.wait_for_live(3);
            night.wait_until_gone("server_refused");
        })],
    }
}
