//! No circle of files: what a file names by `use`, `crate::` or `super::` never leads back to it.
//!
//! A name counts for the file that it is defined in, also where it is named by way of another file that only passes it on
//! (`pub use`). What stands in a file's `mod tests` does not count: tests may look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::sources;

/// A module's path below the crate's root.
type Module = Vec<String>;

/// What one file names: each path in its words, and whether it is passed on.
struct File {
    names: Vec<(Vec<String>, bool)>,
    code: String,
}

#[test]
fn no_file_leads_back_to_itself() {
    let files = files();
    assert!(files.len() > 250, "only {} files were read: the test does not look right", files.len());
    let graph = graph(&files);
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(edges > 1_000, "only {edges} imports were found: the test does not look right");
    let circles: Vec<String> = circles(&graph).iter().map(|circle| shown(circle, &graph)).collect();
    assert!(circles.is_empty(), "files import each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn the_check_sees_a_circle() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry(vec![from.to_string()]).or_default().insert(vec![to.to_string()]);
            graph.entry(vec![to.to_string()]).or_default();
        }
        circles(&graph).len()
    };
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c")]), 0);
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "e"), ("e", "d"), ("d", "a")]), 2);
    let file = |code: &str| File { names: names(code), code: code.into() };
    let files = BTreeMap::from([
        (vec!["a".to_string()], file("pub use self::b::Thing;\nmod b;\n")),
        (vec!["a".to_string(), "b".to_string()], file("use crate::c::{self, Other as O};\npub struct Thing;\n")),
        (vec!["c".to_string()], file("fn f() -> crate::a::Thing { todo!() }\n")),
    ]);
    let found = circles(&super::circles::graph(&files));
    assert_eq!(found, [vec![vec!["a".to_string(), "b".to_string()], vec!["c".to_string()]]]);
}

/// The files of the crate by their modules, but for the programs.
fn files() -> BTreeMap<Module, File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    for path in sources(&src) {
        let place = path.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Module = place.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module[0] == "bin" || module == ["lib"] {
            continue;
        }
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let code = plain(&std::fs::read_to_string(&path).unwrap());
        files.insert(module, File { names: names(&code), code });
    }
    files
}

/// Code without comments, literals and its tests.
fn plain(code: &str) -> String {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut plain = String::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        // Literals that go over lines leave words behind, which name nothing.
        plain.extend(line.split('"').step_by(2));
        plain.push('\n');
    }
    plain
}

/// The paths that code names, each with whether it passes them on.
fn names(code: &str) -> Vec<(Vec<String>, bool)> {
    let mut names = Vec::new();
    for statement in code.split(';') {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let Some(at) = words.iter().rposition(|word| *word == "use") else { continue };
        let passes_on = at > 0 && words[at - 1].starts_with("pub");
        names.extend(tree(&words[at + 1..].join(" ")).into_iter().map(|path| (path, passes_on)));
    }
    for root in ["crate", "super"] {
        for (at, _) in code.match_indices(root) {
            // `pub(in crate::…)` says who may look, and names nothing; a path before a group was read with its `use`.
            let begins = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                && !code[..at].ends_with("in ");
            let path: String =
                code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            let parts: Vec<String> = path.split("::").filter(|part| !part.is_empty()).map(String::from).collect();
            if begins && parts.len() > 1 && !path.ends_with("::") {
                names.push((parts, false));
            }
        }
    }
    names
}

/// The paths of a tree as it stands behind `use`.
fn tree(text: &str) -> Vec<Vec<String>> {
    let parts =
        |text: &str| text.split("::").map(str::trim).filter(|part| !part.is_empty()).map(String::from).collect();
    let Some((head, group)) = text.split_once('{') else {
        return vec![parts(text.split(" as ").next().unwrap_or_default())];
    };
    let head: Vec<String> = parts(head);
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let (mut depth, mut item, mut paths) = (0, String::new(), Vec::new());
    for c in group.chars().chain([',']) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            let below = tree(&std::mem::take(&mut item));
            paths.extend(below.into_iter().filter(|path| !path.is_empty()).map(|path| [head.clone(), path].concat()));
        } else {
            item.push(c);
        }
    }
    paths
}

/// Which files each file needs.
fn graph(files: &BTreeMap<Module, File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut graph = BTreeMap::new();
    for (module, file) in files {
        let mut needs = BTreeSet::new();
        for (path, passes_on) in &file.names {
            let last = path.last().map_or("", String::as_str);
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let used = file.code.split(|c| !word(c)).filter(|found| *found == last).count();
            if *passes_on && used < 2 {
                continue;
            }
            needs.extend(defined_in(files, module, path, 0).filter(|found| found != module));
        }
        graph.insert(module.clone(), needs);
    }
    graph
}

/// The file that defines what a path leads to from a module.
fn defined_in(files: &BTreeMap<Module, File>, from: &Module, path: &[String], depth: usize) -> Option<Module> {
    let (mut at, mut rest): (Module, &[String]) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "super" | "self" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let steps = path.iter().take_while(|part| *part == "super" || *part == "self").count();
            (from[..from.len().checked_sub(ups)?].to_vec(), &path[steps..])
        }
        first if files.contains_key(&[from.clone(), vec![first.to_string()]].concat()) => (from.clone(), path),
        _ => return None,
    };
    while let Some(next) = rest.first() {
        let below = [at.clone(), vec![next.clone()]].concat();
        if !files.contains_key(&below) {
            break;
        }
        (at, rest) = (below, &rest[1..]);
    }
    let file = files.get(&at)?;
    let passed_on = rest.first().filter(|_| depth < 5).and_then(|name| {
        let mut ways = file.names.iter().filter(|(path, passes_on)| *passes_on && path.last() == Some(name));
        ways.find_map(|(path, _)| defined_in(files, &at, path, depth + 1).filter(|found| *found != at))
    });
    Some(passed_on.unwrap_or(at))
}

/// Groups of more than one file in which each leads to each other one.
fn circles(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        graph.keys().map(|module| (module, reach(graph, module))).collect();
    let mut circles: Vec<Vec<Module>> = Vec::new();
    for (module, targets) in &reached {
        if circles.iter().flatten().any(|known| known == *module) {
            continue;
        }
        let both = |other: &&&Module| reached.get(**other).is_some_and(|back| back.contains(*module));
        let circle: BTreeSet<Module> = targets.iter().filter(both).map(|other| (*other).clone()).collect();
        if circle.len() > 1 {
            circles.push(circle.into_iter().collect());
        }
    }
    circles
}

/// Everything that a file leads to.
fn reach<'g>(graph: &'g BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<&'g Module> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Module> = graph.get(from).into_iter().flatten().collect();
    while let Some(module) = open.pop() {
        if found.insert(module) {
            open.extend(graph.get(module).into_iter().flatten());
        }
    }
    found
}

fn shown(circle: &[Module], graph: &BTreeMap<Module, BTreeSet<Module>>) -> String {
    let line = |module: &Module| {
        let needs = graph[module].iter().filter(|other| circle.contains(other)).map(|other| other.join("::"));
        format!("  {} -> {}", module.join("::"), needs.collect::<Vec<_>>().join(", "))
    };
    circle.iter().map(line).collect::<Vec<_>>().join("\n")
}
