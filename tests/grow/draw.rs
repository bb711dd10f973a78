//! A table and drawings of the figures, for docs/performance.md.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::figures::{BASE_FILES, Figures, Run};

/// Where the table goes in the page.
const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";
/// What is drawn.
const DRAWN: [&str; 7] = ["stat", "page of ls", "commit", "mv", "delete", "report", "/metrics"];
const COLOURS: [&str; 7] = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#34495e", "#16a085"];
/// Of a panel.
const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const GAP: f64 = 60.0;
const LEGEND: f64 = 130.0;

/// Puts the table into the page beside the directory of the figures, and the drawing into that directory.
pub fn draw(figures: &Figures, from: &Path) {
    let directory = from.parent().unwrap();
    std::fs::write(directory.join("requests.svg"), drawing(figures)).unwrap();
    let page = directory.with_extension("md");
    let text = std::fs::read_to_string(&page).unwrap_or_else(|_| format!("{BEGIN}\n{END}\n"));
    let (before, rest) = text.split_once(BEGIN).expect("the page says where the figures go");
    let (_, after) = rest.split_once(END).expect("the page says where the figures end");
    std::fs::write(&page, format!("{before}{BEGIN}\n{}{END}{after}", table(figures))).unwrap();
    println!("{}", page.display());
}

fn databases(figures: &Figures) -> Vec<(&'static str, Vec<&Run>)> {
    let all = [("SQLite", figures.of("sqlite")), ("Postgres", figures.of("postgres"))];
    all.into_iter().filter(|(_, runs)| !runs.is_empty()).collect()
}

/// In words: 10 thousand, 1 million.
fn size(files: usize) -> String {
    match files {
        1_000_000.. if files.is_multiple_of(1_000_000) => format!("{} million", files / 1_000_000),
        1_000.. if files.is_multiple_of(1_000) => format!("{} thousand", files / 1_000),
        _ => files.to_string(),
    }
}

fn ms(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn seconds(number: f64) -> String {
    if number >= 10.0 { format!("{number:.0} s") } else { format!("{number:.1} s") }
}

/// For each database the costs by size, and how they have grown since the smallest.
pub fn table(figures: &Figures) -> String {
    let mut text = String::new();
    for (name, runs) in databases(figures) {
        let head: String = runs.iter().map(|run| format!(" {} |", size(run.files))).collect();
        let line = "---|".repeat(runs.len());
        let _ = write!(
            text,
            "\n### {name}\n\nMedian and (95th percentile) in milliseconds; × is how many times as much as with ten thousand files, asked in turns.\n\n| files |{head}\n|---|{line}\n"
        );
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.costs.keys()).collect();
        let (passes, requests): (Vec<&String>, Vec<&String>) =
            names.into_iter().partition(|name| name.starts_with("pass"));
        let drawn = |name: &&String| DRAWN.iter().position(|drawn| *drawn == name.as_str()).unwrap_or(DRAWN.len());
        let mut requests = requests;
        requests.sort_by_key(drawn);
        for name in requests.into_iter().chain(passes) {
            let cell = |run: &Run| match run.costs.get(name) {
                Some(cost) => {
                    let ratio = run.ratio(name).filter(|_| DRAWN.contains(&name.as_str()));
                    let ratio = ratio.map(|ratio| format!(", × {ratio:.2}")).unwrap_or_default();
                    format!(" {} ({}){ratio} |", ms(cost.median_ms), tenth(cost.p95_ms))
                }
                None => " |".into(),
            };
            let cells: String = runs.iter().map(|run| cell(run)).collect();
            let _ = writeln!(text, "| {name} |{cells}");
        }
        let mut row = |what: &str, of: &dyn Fn(&Run) -> Option<String>| {
            let cells: Vec<Option<String>> = runs.iter().map(|run| of(run)).collect();
            if cells.iter().any(Option::is_some) {
                let cells: String = cells.into_iter().map(|cell| format!(" {} |", cell.unwrap_or_default())).collect();
                let _ = writeln!(text, "| {what} |{cells}");
            }
        };
        row("start of the name server", &|run| Some(seconds(run.start_seconds)));
        row("all inventories compared", &|run| Some(seconds(run.compare_seconds)));
        row("snapshot on all holders", &|run| Some(seconds(run.snapshot_seconds)));
        row("fsck", &|run| run.fsck_seconds.map(seconds));
        row("restore", &|run| run.restore.as_ref().map(|restore| seconds(restore.seconds)));
        row("of that, writing the tables", &|run| run.restore.as_ref().map(|restore| seconds(restore.writing_seconds)));
        row("a server returns empty: its first loss is told", &|run| {
            run.empty_return.as_ref().map(|is| seconds(is.seen_seconds))
        });
        row("all of it is", &|run| run.empty_return.as_ref().map(|is| seconds(is.compared_seconds)));
        row("memory of the name server", &|run| Some(format!("{} MiB", run.memory_mib)));
        row("in a restore", &|run| run.restore.as_ref().map(|restore| format!("{} MiB", restore.memory_mib)));
        row("with a server that has returned empty", &|run| {
            run.empty_return.as_ref().map(|is| format!("{} MiB", is.memory_mib))
        });
        row("filling", &|run| Some(seconds(run.fill_seconds)));
        row("load of the machine, before and after", &|run| Some(format!("{:.1}, {:.1}", run.load.0, run.load.1)));
    }
    text + "\n"
}

fn tenth(number: f64) -> String {
    if number >= 10.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// How many times as much as with [`BASE_FILES`], by files in powers of ten.
pub fn drawing(figures: &Figures) -> String {
    let databases = databases(figures);
    let width = LEFT + databases.len() as f64 * (WIDTH + GAP) + LEGEND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        TOP + HEIGHT + 60.0
    );
    let ratios = figures.runs.iter().flat_map(|run| DRAWN.iter().filter_map(|name| run.ratio(name)));
    let highest = ratios.fold(1.5, f64::max).ceil();
    for (panel, (name, runs)) in databases.iter().enumerate() {
        let left = LEFT + panel as f64 * (WIDTH + GAP);
        draw_panel(&mut svg, name, runs, left, highest);
    }
    for (number, (name, colour)) in DRAWN.iter().zip(COLOURS).enumerate() {
        let (x, y) = (width - LEGEND, TOP + 10.0 + 20.0 * number as f64);
        let _ = writeln!(svg, "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>", y - 6.0);
        let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"{y:.0}\">{name}</text>", x + 18.0);
    }
    svg + "</svg>\n"
}

fn draw_panel(svg: &mut String, name: &str, runs: &[&Run], left: f64, highest: f64) {
    let y = |ratio: f64| TOP + HEIGHT * (1.0 - ratio / highest);
    // From ten thousand to ten million, with some room on both sides.
    let x = |files: usize| left + WIDTH * ((files as f64).log10() - 3.6) / 3.8;
    let (end, bottom) = (left + WIDTH, TOP + HEIGHT);
    let _ = writeln!(svg, "<text x=\"{left:.0}\" y=\"24\" font-weight=\"bold\">{name}</text>");
    for half in 0..=(highest * 2.0) as usize {
        let (at, label) = (y(half as f64 / 2.0), half as f64 / 2.0);
        let colour = if half == 2 { "#888" } else { "#ddd" };
        let _ = writeln!(
            svg,
            "<line x1=\"{left:.0}\" x2=\"{end:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">× {label}</text>",
            left - 6.0,
            at + 4.0
        );
    }
    for files in [10_000, 100_000, 1_000_000, 10_000_000] {
        let (at, below, label) = (x(files), bottom + 20.0, size(files));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP:.0}\" y2=\"{bottom:.0}\" stroke=\"#eee\"/>\n\
             <text x=\"{at:.1}\" y=\"{below:.0}\" text-anchor=\"middle\">{label}</text>"
        );
    }
    let middle = left + WIDTH / 2.0;
    let _ = writeln!(svg, "<text x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\">files</text>", bottom + 42.0);
    for (name, colour) in DRAWN.iter().zip(COLOURS) {
        let asked = runs.iter().filter_map(|run| Some((run.files, run.ratio(name)?)));
        let points: Vec<(f64, f64)> =
            std::iter::once((BASE_FILES, 1.0)).chain(asked).map(|(files, ratio)| (x(files), y(ratio))).collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let line = line.join(" ");
        let _ = writeln!(svg, "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        for (x, y) in points {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
}
