//! What leads past the points of each area.

use std::sync::atomic::{AtomicBool, Ordering};

use diesel::connection::SimpleConnection;
use holdfast::types::failpoint::Area;

use crate::arena::{Arena, OTHER, VICTIM, Who};
use crate::common::wait_for;
use crate::model::{Op, Op::*, Unit};

/// Threads that send requests at the same time, so that batches have several items.
const DRIVERS: u32 = 3;
const SMALL: usize = 3_000;
const LARGE: usize = 150_000;

const WRITES: &[&[Op]] = &[
    &[Put("f", SMALL)],
    &[Put("f", LARGE)],
    &[Put("f", SMALL), Put("f", LARGE)],
    &[Put("f", LARGE), Put("f", SMALL), Put("f", SMALL)],
];
const MOVES: &[&[Op]] = &[
    &[Put("d/a", SMALL), Put("d/e/b", LARGE), Move("d", "moved")],
    &[Put("a", SMALL), Put("b", SMALL), Move("a", "b")],
    &[Put("a", LARGE), Mkdir("d/e"), Move("a", "d/e/a"), Move("d/e", "e")],
];
const REMOVALS: &[&[Op]] = &[
    &[Put("f", LARGE), Put("g", LARGE), Remove("f")],
    &[Put("d/a", SMALL), Put("d/e/b", LARGE), Put("d/e/c", LARGE), Remove("d")],
    &[Put("f", LARGE), Put("f", SMALL), Remove("f")],
];
const COPIES: &[&[Op]] = &[
    &[Put("a", SMALL), Copy("a", "b"), Put("a", LARGE)],
    &[Put("d/a", SMALL), Put("d/e/b", LARGE), Mkdir("d/e/f/g"), Copy("d", "copy"), Remove("d")],
    &[Put("a", LARGE), Put("b", LARGE), Copy("a", "b"), Remove("a")],
];
const TOO_LATE: &[&[Op]] =
    &[&[Put("f", SMALL), Mkdir("gone"), PutTooLate("gone", LARGE)], &[Mkdir("gone"), PutTooLate("gone", SMALL)]];

/// Who dies of an area's points.
pub fn who(area: Area) -> Who {
    match area {
        Area::Upload | Area::Merge | Area::Delete | Area::Transfer | Area::Aside | Area::Join | Area::Collect => {
            Who::Storage
        }
        _ => Who::NameServer,
    }
}

fn scripts(area: Area) -> Vec<&'static [Op]> {
    let sets: &[&[&'static [Op]]] = match area {
        Area::Upload | Area::Merge | Area::Commit | Area::Collect | Area::Join => &[WRITES],
        Area::Change => &[WRITES, MOVES, REMOVALS, COPIES],
        Area::Move => &[MOVES],
        Area::Remove | Area::Delete | Area::Reap => &[REMOVALS],
        Area::Copy => &[COPIES],
        Area::Abort => &[TOO_LATE],
        Area::Repair | Area::Transfer | Area::Trim | Area::Return | Area::Aside | Area::Drain | Area::Lease => &[],
        Area::Restore => &[],
    };
    sets.concat()
}

/// Makes the server die at the point in the middle of the work, and brings it back.
pub fn run(arena: &mut Arena, area: Area, point: &str, times: u32) {
    let (round, who) = (arena.round(), who(area));
    let mut driver = arena.driver(0);
    for number in 0..6 {
        let unit = driver.unit(format!("{round}/before-{number}"), &[Put("a", SMALL), Put("b", LARGE)]);
        assert_eq!(unit.worlds.len(), 1, "{:?}", unit.story);
        arena.units.push(unit);
    }
    before(arena, area);
    arena.condemn(who, point, times);
    let scripts = scripts(area);
    if scripts.is_empty() || area == Area::Join {
        lead_past(arena, area);
        arena.wait_for_death(who, point);
    } else {
        write_until_death(arena, who, point, &round, &scripts);
    }
    if who == Who::Storage && !matches!(area, Area::Transfer | Area::Aside) {
        // One server is dead, and nothing that was acknowledged is lost.
        arena.check_bytes();
    }
    if who == Who::Storage || scripts.is_empty() {
        arena.revive(who);
    }
    afterwards(arena, area);
}

/// Threads make units by the scripts until the process has died. The name server is brought back while requests
/// still wait for it.
fn write_until_death(arena: &mut Arena, who: Who, point: &str, round: &str, scripts: &[&[Op]]) {
    let stop = AtomicBool::new(false);
    let drivers: Vec<_> = (1..=DRIVERS).map(|number| (number, arena.driver(number))).collect();
    let units: Vec<Unit> = std::thread::scope(|scope| {
        let stop = &stop;
        let work = |(number, mut driver): (u32, crate::model::Driver)| {
            scope.spawn(move || {
                let mut units = Vec::new();
                for count in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let script = scripts[(count + number as usize) % scripts.len()];
                    units.push(driver.unit(format!("{round}/{number}-{count}"), script));
                }
                units
            })
        };
        let threads: Vec<_> = drivers.into_iter().map(work).collect();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| arena.wait_for_death(who, point)));
        stop.store(true, Ordering::Relaxed);
        if died.is_ok() && who == Who::NameServer {
            arena.revive(who);
        }
        let units = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        died.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        units
    });
    arena.units.extend(units);
}

/// What must be so before the server is condemned.
fn before(arena: &mut Arena, area: Area) {
    match area {
        Area::Trim => {
            arena.cluster.storage[OTHER].kill();
            wait_for("what the dead server had is copied", 40, || {
                let report = arena.report()?;
                (report["servers_down"] == 1 && report["under_replicated"].as_array()?.is_empty()).then_some(())
            });
        }
        Area::Return => kill_and_make_different(arena, OTHER),
        Area::Aside => kill_and_make_different(arena, VICTIM),
        Area::Restore => {
            arena.wait_for_rest();
            arena.cluster.name_server.kill();
            arena.sql("DELETE FROM journal WHERE version = (SELECT max(version) - 1 FROM journal)");
        }
        _ => {}
    }
}

/// A server that returns has lost two copies, and has one that nobody knows, of a version that the journal does not have: of
/// one that it has, it would be the evidence of another history.
fn kill_and_make_different(arena: &mut Arena, number: usize) {
    wait_for("its copies are marked", 30, || (arena.pending(number) == 0).then_some(()));
    arena.cluster.storage[number].kill();
    let changes = "
        CREATE TEMP TABLE lost AS SELECT object, generation FROM replicas WHERE state = 'committed' AND in_index LIMIT 2;
        DELETE FROM small_bytes WHERE (object, generation) IN lost;
        DELETE FROM replicas WHERE (object, generation) IN lost;
        INSERT INTO replicas
            SELECT object + 1, generation, 1, sha256, '/r0/unknown', epoch, 0, ticket_expires, state, 1, created, verified
            FROM replicas WHERE state = 'committed' LIMIT 1;
        INSERT INTO small_bytes SELECT object, generation, x'00' FROM replicas WHERE label = '/r0/unknown'";
    arena.index(number).batch_execute(changes).unwrap();
}

/// Does what leads past the point.
fn lead_past(arena: &mut Arena, area: Area) {
    match area {
        Area::Repair | Area::Transfer => arena.cluster.storage[OTHER].kill(),
        Area::Trim | Area::Return => arena.cluster.storage[OTHER].start(),
        Area::Drain => drop(arena.cluster.http().post("/api/v1/servers/storage-2/drain", "{}")),
        Area::Lease => arena.restart_condemned(Who::NameServer),
        Area::Join | Area::Aside => arena.restart_condemned(Who::Storage),
        Area::Restore => {
            arena.revive(Who::NameServer);
            wait_for("the restore meets its end", 40, || (!asks_for_restore(arena)).then_some(()));
        }
        _ => {}
    }
}

/// Starts a restore, unless one is under way or not all servers have announced themselves. Answers whether the name server
/// answers.
fn asks_for_restore(arena: &Arena) -> bool {
    let answer = arena.cluster.http().post("/api/v1/restore", r#"{"force":true}"#);
    answer.status != 0
}

/// Brings back what the workload has taken away.
fn afterwards(arena: &mut Arena, area: Area) {
    match area {
        Area::Repair | Area::Transfer => arena.cluster.storage[OTHER].start(),
        Area::Aside => {
            let quarantine = arena.cluster.storage_dir(VICTIM).join("quarantine");
            wait_for("the unknown copy is put aside with a note", 40, || {
                let notes = walkdir::WalkDir::new(&quarantine).into_iter().flatten().map(walkdir::DirEntry::into_path);
                let mut notes = notes.filter(|path| path.extension().is_some_and(|end| end == "reason"));
                let about = |note: &std::path::Path| std::fs::read_to_string(note).unwrap().contains("/r0/unknown");
                notes.any(|note| about(&note) && note.with_extension("").exists()).then_some(())
            });
        }
        Area::Restore => wait_for("the metadata is restored", 60, || {
            if crate::arena::get(&arena.cluster.http(), "/status")?["mode"] == "normal" {
                return Some(());
            }
            asks_for_restore(arena);
            None
        }),
        Area::Drain => {
            wait_for("the server is drained", 40, || {
                let servers = crate::arena::get(&arena.cluster.http(), "/api/v1/servers")?.to_string();
                servers.contains(r#""admin_state":"drained""#).then_some(())
            });
            wait_for("it is in service again", 40, || {
                let answer = arena.cluster.http().post("/api/v1/servers/storage-2/undrain", "{}");
                (answer.status == 200).then_some(())
            });
        }
        _ => {}
    }
}
