//! What runs under `cargo test`: a small cluster on each database. The output is that of other tests.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use holdfast::types::DfsPath;
use holdfast::types::api::ListQuery;

use crate::draw::{drawing, table};
use crate::figures::{BASE_FILES, Cost, Figures, Run};
use crate::study::Study;
use crate::tree::{Tree, content};

const FILES: usize = 2_000;

const TESTS: [(&str, fn()); 4] = [
    ("a_tree_is_the_same_again", a_tree_is_the_same_again),
    ("figures_become_a_table_and_a_drawing", figures_become_a_table_and_a_drawing),
    ("a_filled_cluster_on_sqlite_is_a_real_one", || a_filled_cluster_is_a_real_one("sqlite")),
    ("a_filled_cluster_on_postgres_is_a_real_one", || a_filled_cluster_is_a_real_one("postgres")),
];

/// Runs the tests that the arguments select, as the usual harness does.
pub fn run_tests(args: &[String]) -> ExitCode {
    let is_value =
        |before: Option<&String>| before.is_some_and(|word| ["--test-threads", "--format"].contains(&&word[..]));
    let words = args
        .iter()
        .enumerate()
        .filter(|(at, word)| !word.starts_with('-') && !is_value(at.checked_sub(1).and_then(|at| args.get(at))));
    let filters: Vec<&String> = words.map(|(_, word)| word).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let selected: Vec<_> = TESTS.into_iter().filter(|(name, _)| wanted(name)).collect();
    if args.iter().any(|arg| arg == "--list") {
        selected.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let (began, mut failed) = (Instant::now(), 0);
    for (name, test) in &selected {
        let passed = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, seconds) = (selected.len() - failed, began.elapsed().as_secs_f64());
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; finished in {seconds:.2}s\n");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn a_tree_is_the_same_again() {
    let of = |seed| Tree::new(FILES, seed).map(|node| (node.path.to_string(), node.size)).collect::<Vec<_>>();
    let (one, other) = (of(1), of(2));
    assert!(one == of(1) && one != other);
    assert_eq!(one.iter().filter(|(_, size)| size.is_some()).count(), FILES);
    let depth = one.iter().map(|(path, _)| path.matches('/').count()).max();
    assert!(depth >= Some(4), "{depth:?}");
}

fn figures_become_a_table_and_a_drawing() {
    let costs = |ms: f64| [("stat".to_string(), Cost { median_ms: ms, p95_ms: ms * 2.0, times: 9 })].into();
    let run = |files: usize, ms: f64| Run {
        database: "sqlite".into(),
        files,
        costs: costs(ms),
        base_costs: if files > BASE_FILES { costs(0.5) } else { Default::default() },
        ..Run::default()
    };
    let figures = Figures { runs: vec![run(10_000, 0.5), run(1_000_000, 0.55)] };
    let table = table(&figures);
    assert!(table.contains("| stat | 0.50 (1.0) | 0.55 (1.1), × 1.10 |"), "{table}");
    let svg = drawing(&figures);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains(">stat<"), "{svg}");
}

/// What was filled in is read, counted, compared with the inventories and found to be sound by the programs themselves.
fn a_filled_cluster_is_a_real_one(database: &str) {
    let (mut study, mut run) = Study::begin(database, FILES, 2);
    let report = study.runtime.block_on(study.client.report()).unwrap();
    assert_eq!((report.objects, report.verdict.as_str()), (FILES as u64, "healthy"), "{report:?}");
    study.fsck(&mut run);
    for (path, size) in study.filled.samples.iter().step_by(FILES / 10) {
        let bytes = study.cluster.ok(&["cat", path.as_str()]);
        assert!(bytes.into_bytes() == content(path, *size), "{path}");
    }
    let mut query = ListQuery { path: DfsPath::root(), after: None, limit: None, recursive: true, locations: false };
    let mut entries = 0;
    loop {
        let page = study.runtime.block_on(study.client.list(&query)).unwrap();
        entries += page.entries.len();
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(entries, FILES + study.filled.directories);
    study.restore(&mut run);
    study.empty_return(&mut run);
    study.end();
}
