//! The interactive shell: one command a line, with history and completion of remote paths.
//!
//! A line is split as a POSIX shell does it (quotes and backslashes, nothing else) and read by the same parser
//! as the command line. `cd` is remembered for the workspace, or outside of one until the shell ends.

use std::cell::RefCell;
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Editor};
use tokio::runtime::Runtime;

use super::args::{Command, GlobalArgs, parse_from};
use super::context::Context;
use super::exit::Exit;
use super::output::shown;
use super::progress::speak_json;
use crate::types::api::{Kind, ListQuery};
use crate::types::{DfsPath, Error, Result};

/// Lines that are remembered.
const HISTORY_LINES_MAX: usize = 1_000;
/// Names that a completion offers.
const CANDIDATES_MAX: usize = 200;
/// Pages that a completion looks through.
const COMPLETION_PAGES_MAX: usize = 5;

/// Commands that are completed.
const COMMANDS: &[&str] = &[
    "actors",
    "cat",
    "cd",
    "cp",
    "df",
    "drain",
    "du",
    "events",
    "exit",
    "export",
    "find",
    "fsck",
    "help",
    "import",
    "info",
    "ls",
    "mkdir",
    "mv",
    "pull",
    "push",
    "pwd",
    "rebalance",
    "remove",
    "report",
    "restore",
    "rm",
    "rmdir",
    "scrub",
    "servers",
    "setrep",
    "stat",
    "status",
    "token",
    "touch",
    "tree",
    "undrain",
    "version",
    "why",
];

/// `holdfast shell`.
pub(super) fn run(args: GlobalArgs, runtime: &Runtime) -> Result<Exit> {
    let context = Context::new(args, true)?;
    // An unknown cluster is said now rather than at every command.
    context.cluster()?;
    let config = Config::builder()
        .max_history_size(HISTORY_LINES_MAX)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(broken)?
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor: Editor<Helper, DefaultHistory> = Editor::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Helper { context: &context, runtime, listed: RefCell::new(None) }));
    let history = history_file();
    if let Some(path) = &history {
        // Without a history the shell works as well.
        let _ = editor.load_history(path);
    }
    let mut last = Exit::Done;
    loop {
        let prompt = format!("holdfast:{}> ", shown(context.cwd().as_str(), true));
        match editor.readline(&prompt) {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) if matches!(line.trim(), "exit" | "quit") => break,
            Ok(line) => {
                let _ = editor.add_history_entry(line.trim_end());
                last = execute(&context, runtime, &line);
            }
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(path) = &history {
        let _ = editor.save_history(path);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let _ = std::fs::set_permissions(path, private);
    }
    Ok(last)
}

fn broken(error: ReadlineError) -> Error {
    Error::internal("the terminal cannot be read").with_source(error)
}

fn history_file() -> Option<PathBuf> {
    let directory = dirs::data_local_dir()?.join("holdfast");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

fn execute(context: &Context, runtime: &Runtime, line: &str) -> Exit {
    let words = match split(line) {
        Some(words) => words,
        None => {
            let error = Error::invalid("a quote is not closed");
            crate::cli::complaint::complain(&error);
            return Exit::from(error.code());
        }
    };
    let words = match words.first().map(String::as_str) {
        Some("help") => vec!["--help".to_string()],
        _ => words,
    };
    let args = std::iter::once("holdfast".to_string()).chain(words).map(Into::into).collect();
    match parse_from(args) {
        Ok(cli) if matches!(cli.command, Command::Init(_)) => {
            super::finished(Err(Error::invalid("leave the shell to make a workspace")))
        }
        Ok(cli) => {
            let line_context = context.for_line(cli.global);
            speak_json(line_context.json());
            let result = runtime.block_on(super::interruptible(&line_context, &cli.command));
            if let Err(error) = context.take_cwd_of(&line_context) {
                crate::cli::complaint::complain(&error);
            }
            let exit = super::finished(result);
            speak_json(context.json());
            exit
        }
        Err(exit) => {
            speak_json(context.json());
            exit
        }
    }
}

/// Splits a line into words; `None` when a quote is not closed.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('\''), plain) => word.get_or_insert_default().push(plain),
            (_, '\\') => {
                let next = characters.next()?;
                // Between double quotes a backslash is special only before these.
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.get_or_insert_default().push('\\');
                }
                word.get_or_insert_default().push(next);
            }
            (Some(_), plain) => word.get_or_insert_default().push(plain),
            (None, open @ ('\'' | '"')) => {
                quote = Some(open);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None, plain) => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A word as it must be typed.
pub(super) fn escape(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for character in word.chars() {
        if character.is_whitespace() || matches!(character, '\'' | '"' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Where the last word of a line begins, and the word without its quoting.
fn last_word(line: &str) -> (usize, String) {
    let mut start = 0;
    let mut escaped = false;
    for (index, character) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character.is_whitespace() {
            start = index + character.len_utf8();
        }
    }
    let word = split(&line[start..]).and_then(|words| words.into_iter().next()).unwrap_or_default();
    (start, word)
}

/// The names of one directory that begin alike.
type Listed = (DfsPath, String, Vec<(String, Kind)>);

/// Completes commands and remote paths.
struct Helper<'a> {
    context: &'a Context,
    runtime: &'a Runtime,
    /// The last answer: a second press of Tab asks for the same.
    listed: RefCell<Option<Listed>>,
}

impl Helper<'_> {
    fn names(&self, directory: &DfsPath, prefix: &str) -> Vec<(String, Kind)> {
        if let Some((known, known_prefix, names)) = &*self.listed.borrow()
            && known == directory
            && known_prefix == prefix
        {
            return names.clone();
        }
        // A completion that cannot be had is no reason to disturb the line.
        let names = self.runtime.block_on(self.list(directory, prefix)).unwrap_or_default();
        *self.listed.borrow_mut() = Some((directory.clone(), prefix.to_string(), names.clone()));
        names
    }

    async fn list(&self, directory: &DfsPath, prefix: &str) -> Result<Vec<(String, Kind)>> {
        let names = self.context.cluster()?.names.with_retries(0);
        let mut found = Vec::new();
        let mut after = None;
        for _ in 0..COMPLETION_PAGES_MAX {
            let query = ListQuery { path: directory.clone(), after, limit: None, recursive: false, locations: false };
            let page = names.list(&query).await?;
            let matching = page.entries.into_iter().filter(|entry| entry.path.starts_with(prefix));
            found.extend(matching.map(|entry| (entry.path, entry.kind)));
            after = page.next;
            if after.is_none() || found.len() >= CANDIDATES_MAX {
                break;
            }
        }
        found.truncate(CANDIDATES_MAX);
        Ok(found)
    }
}

impl Completer for Helper<'_> {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, word) = last_word(&line[..at]);
        if line[..start].trim().is_empty() {
            let commands = COMMANDS.iter().filter(|command| command.starts_with(&word));
            let pair = |command: &&str| Pair { display: command.to_string(), replacement: format!("{command} ") };
            return Ok((start, commands.map(pair).collect()));
        }
        let cut = word.rfind('/').map_or(0, |slash| slash + 1);
        let (typed_directory, prefix) = word.split_at(cut);
        let Ok(directory) = self.context.cwd().resolve(typed_directory) else { return Ok((start, Vec::new())) };
        let pair = |(name, kind): (String, Kind)| {
            let end = if kind == Kind::Directory { "/" } else { " " };
            Pair {
                display: shown(&name, true).into_owned(),
                replacement: format!("{}{end}", escape(&format!("{typed_directory}{name}"))),
            }
        };
        Ok((start, self.names(&directory, prefix).into_iter().map(pair).collect()))
    }
}

impl Hinter for Helper<'_> {
    type Hint = String;
}

impl Highlighter for Helper<'_> {}
impl Validator for Helper<'_> {}
impl rustyline::Helper for Helper<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_commands_but_those_for_the_machine_are_completed() {
        let mut help = Vec::new();
        <crate::cli::args::Cli as structopt::StructOpt>::clap().write_long_help(&mut help).unwrap();
        let help = String::from_utf8(help).unwrap();
        let commands = help.split("SUBCOMMANDS:").nth(1).unwrap().lines().filter(|line| line.starts_with("    "));
        let names = commands.filter(|line| line[4..].starts_with(|first: char| first.is_ascii_lowercase()));
        let names = names.filter_map(|line| line.split_whitespace().next());
        let of_the_machine = ["certs", "completions", "demo", "down", "init", "shell", "up"];
        let mut expected: Vec<&str> = names.filter(|name| !of_the_machine.contains(name)).collect();
        expected.extend(["exit", "info"]);
        expected.sort_unstable();
        assert_eq!(COMMANDS, expected);
    }

    #[test]
    fn lines_are_split_as_in_a_shell() {
        for (line, want) in [
            ("ls  /a", Some(&["ls", "/a"][..])),
            (r#"rm 'a b' "c\"d" e\ f"#, Some(&["rm", "a b", "c\"d", "e f"])),
            (r#"cat "a\b""#, Some(&["cat", "a\\b"])),
            ("touch ''", Some(&["touch", ""])),
            ("cat 'x", None),
            ("", Some(&[])),
        ] {
            let words = split(line);
            assert_eq!(
                words.as_ref().map(|words| words.iter().map(String::as_str).collect()),
                want.map(Vec::from),
                "{line}"
            );
        }
    }

    #[test]
    fn the_last_word_is_found_behind_escaped_spaces() {
        assert_eq!(last_word("cat a\\ b"), (4, "a b".into()));
        assert_eq!(last_word("cat "), (4, String::new()));
        assert_eq!(last_word("ca"), (0, "ca".into()));
    }

    proptest! {
        #[test]
        fn an_escaped_word_is_itself_again(word in "[a-z '\"\\\\ü\t]{1,12}") {
            prop_assert_eq!(split(&escape(&word)), Some(vec![word]));
        }

        #[test]
        fn no_line_panics(line in "\\PC{0,40}") {
            split(&line);
            last_word(&line);
        }
    }
}
