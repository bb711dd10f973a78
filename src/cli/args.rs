//! The command line: what may be typed, and the help that explains it.

mod administration;
pub(super) mod utf8;

use std::borrow::Cow;
use std::path::PathBuf;

use structopt::StructOpt;
use structopt::clap::{AppSettings, ErrorKind, Shell};

pub(crate) use self::administration::*;
use super::commands::certs::CertsCommand;
use super::exit::Exit;
use super::failure::Failure;
pub(crate) use super::options::GlobalArgs;
use super::progress::{say, speak_json, tell};
use super::up::{DownArgs, MemberArgs, UpArgs};

/// Below every help.
const AFTER_HELP: &str = "\
EXIT CODES:
    0 done    1 failed    2 wrong usage    3 not found    4 conflict or precondition    5 not permitted
    6 cluster unavailable    7 partly done (what was not is listed on standard error)
    130 interrupted by Ctrl-C    143 told to end by a signal

PATHS in the cluster are absolute, or relative to the workspace's remote directory (`holdfast pwd`).
Write -- before names that begin with a dash.";

/// Fault-tolerant distributed file storage: verified copies of every file on ordinary machines.
#[derive(Debug, StructOpt)]
#[structopt(
    name = "holdfast",
    after_help = AFTER_HELP,
    global_settings = &[AppSettings::VersionlessSubcommands, AppSettings::UnifiedHelpMessage],
    settings = &[AppSettings::SubcommandRequiredElseHelp, AppSettings::DeriveDisplayOrder],
)]
pub struct Cli {
    #[structopt(flatten)]
    pub(crate) global: GlobalArgs,
    #[structopt(subcommand)]
    pub(crate) command: Command,
}

fn levels(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("must be a number from 1".into()),
    }
}

/// Options of `holdfast demo`.
#[derive(Debug, Clone, StructOpt)]
pub(crate) struct DemoArgs {
    /// Port of the name server; the storage servers take the following ones [default: free ones]
    #[structopt(long)]
    pub(crate) port: Option<u16>,
    /// Leave everything in place at the end, with the logs of all members
    #[structopt(long)]
    pub(crate) keep: bool,
}

// Everything that can be asked for. (A doc comment here would become the program's own.)
#[derive(Debug, StructOpt)]
pub(crate) enum Command {
    /// Starts a whole cluster on this machine, or goes on with the one in the data directory
    Up(UpArgs),
    /// Stops a cluster that `up` started on this machine
    Down(DownArgs),
    /// The tour: a cluster on this machine loses a server and its database, and nothing that was stored in it
    ///
    /// Everything happens in a temporary directory and in processes of its own, which are gone at the end. It takes
    /// less than two minutes. The exit code is 0 only if nothing was lost.
    Demo(DemoArgs),
    /// One server of `up`
    #[structopt(setting = AppSettings::Hidden)]
    Member(MemberArgs),
    /// Lists a directory; in a workspace with each file's status against the local copy
    ///
    /// The columns of -l, which have headings on a terminal: d for directories; copies there are of copies wanted (of
    /// a directory: - of those that new files in it get); size; when the content was last changed, in local time; the
    /// number of the change that made the entry as it is; the name.
    Ls(LsArgs),
    /// Copies a file or directory from this machine into the cluster
    ///
    /// Only what is missing or differs is sent, so an interrupted import is finished by repeating it.
    /// A file goes to DFS_PATH itself, or into it when that is a directory or ends with a slash. A directory's
    /// contents go below DFS_PATH, which is made if need be (as `cp -rT` does it); nothing is removed there.
    /// Symbolic links, sockets, pipes, devices and names that are not UTF-8 are skipped, listed, and end the
    /// command with exit code 7. So are .holdfast, temporary files and data directories of servers, whose secrets
    /// never travel.
    Import(ImportArgs),
    /// Copies a file or directory out of the cluster
    ///
    /// Everything is verified by SHA-256 before it gets its name. Host files that are the same already are not
    /// fetched again. A file goes to HOST_PATH itself, or into it when that is a directory or ends with a
    /// slash. A directory's contents go below HOST_PATH, which is made if need be. Links below it are never followed.
    /// What cannot be had there (something else is in the way, a name that the file system takes for another one, a
    /// .holdfast or a temporary file that somebody has stored) is listed, and ends the command with exit code 7.
    Export(ExportArgs),
    /// Writes files to standard output, verified
    Cat(PathsArgs),
    /// Shows size, hash, version, copies and where they are
    ///
    /// With --json it is always a list, for one path too.
    #[structopt(visible_alias = "info")]
    Stat(PathsArgs),
    /// Makes empty files, or renews the time of files that are there
    Touch(PathsArgs),
    /// Removes files, and with -r directories with all that is in them
    Rm(RmArgs),
    /// Moves or renames files and directories
    #[structopt(usage = "holdfast mv [OPTIONS] <SRC>... <DEST>")]
    Mv(MvArgs),
    /// Copies files, and with -r directories, inside the cluster; no bytes travel
    #[structopt(usage = "holdfast cp [OPTIONS] <SRC>... <DEST>")]
    Cp(CpArgs),
    /// Makes directories
    Mkdir(MkdirArgs),
    /// Removes empty directories
    Rmdir(PathsArgs),
    /// Draws a directory and all below it
    Tree(TreeArgs),
    /// Sums up sizes below directories
    Du(DuArgs),
    /// Finds files by name, kind and size
    Find(FindArgs),
    /// Changes the workspace's remote directory
    Cd(CdArgs),
    /// Prints the remote directory that relative paths are resolved against
    Pwd,
    /// Makes a host directory a workspace: a local copy of a remote directory
    Init(InitArgs),
    /// Shows what changed here, there and on both sides since the last push or pull
    Status(StatusArgs),
    /// Sends what changed in the workspace, deletions too
    ///
    /// A file that changed on both sides is a conflict: it is listed, nothing is overwritten, and the exit code
    /// is 4. With --force the local side wins, also where a file and a directory stand against each other; a link
    /// in the place of a file stays a conflict, because it cannot be sent.
    Push(SyncArgs),
    /// Fetches what changed in the cluster into the workspace, deletions too
    ///
    /// A file that changed on both sides is a conflict: it is listed, nothing is overwritten, and the exit code
    /// is 4. With --force the remote side wins, also where a file, a directory or a link stand against each other.
    Pull(SyncArgs),
    /// Interactive, with history and completion of remote paths
    Shell,
    /// Shows the storage servers
    Servers(ServersArgs),
    /// Shows how much room there is, and how much of it new files may take
    Df,
    /// Says whether data is in danger, why, and what to do
    Report(ReportArgs),
    /// Shows the name server's actors
    Actors,
    /// Shows what happened in the cluster, one line for each cause; with -v each copy
    Events(EventsArgs),
    /// Explains one file: where its copies are, what is missing and what happened to it
    Why(PathArgs),
    /// Takes a storage server out of service: its files are copied away, and it gets no new ones
    Drain(DrainArgs),
    /// Puts a draining storage server back into service, or lets a removed one come back
    Undrain(ServerArgs),
    /// Removes a drained or dead storage server from the cluster
    Remove(RemoveArgs),
    /// Sets how many copies are wanted of a file, or of a directory and all below it
    ///
    /// Copies are made or removed in the background; `holdfast report` shows how far that is. Directories below
    /// PATH that have a number of their own keep it. A file that was copied by `cp` shares its bytes: it has the
    /// largest number of all its places. A file's own number lasts until its content or its directory's number
    /// changes.
    Setrep(SetrepArgs),
    /// Moves copies in the background until storage servers are filled evenly
    ///
    /// No file is short of copies meanwhile, and none is spread worse over hosts and zones. Copies are moved within the
    /// limits of repair (--repair-transfers, --repair-rate of the name server), and only while repair has nothing to do.
    /// It goes on when this ends and over restarts; `holdfast report` and --status show how far it is.
    Rebalance(RebalanceArgs),
    /// Compares the metadata with itself and with what the storage servers have
    ///
    /// What is found is looked at again a second later, so that work under way is not mistaken for damage.
    /// The exit code is 0 when nothing is wrong and every server could be asked, else 1.
    /// With --deep it is 7 when bytes were found corrupt; they are replaced from other copies.
    /// The name server does it: it goes on when this is interrupted, and asked for again it is followed. What the last one
    /// found stays: --status shows it.
    Fsck(FsckArgs),
    /// Has storage servers read everything they have now (`scrub now [SERVER]`), and says what was corrupt
    ///
    /// `scrub now PATH` has all copies of a file, or of the files below a directory, read; the name server does that.
    /// They read at the rate of their scrubber, and go on when this is interrupted or they are restarted; `--status` says
    /// how far they are and what came of the last time. What is corrupt is put aside and replaced from other copies.
    /// The exit code is 0 when all was right, 7 when something was corrupt, and 6 when a server could not be asked.
    Scrub(ScrubArgs),
    /// Brings a lost or rolled-back database back from the storage servers, and shows how far that is
    ///
    /// The exit code is 0 when everything is back, 7 when the copies of some files are lost (they are listed), and
    /// 1 when it failed. It can be interrupted and run again.
    Restore(RestoreArgs),
    /// Makes, lists and revokes access tokens
    Token(TokenCommand),
    /// Makes an authority and the servers' certificates, for a cluster on TLS
    Certs(CertsCommand),
    /// Prints a shell's completions
    Completions(CompletionsArgs),
    /// Prints the version of this program
    Version,
}

/// Several paths.
#[derive(Debug, StructOpt)]
pub(crate) struct PathsArgs {
    /// Paths in the cluster
    #[structopt(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// One path.
#[derive(Debug, StructOpt)]
pub(crate) struct PathArgs {
    /// A path in the cluster
    #[structopt(value_name = "PATH")]
    pub(crate) path: String,
}

/// `ls`.
#[derive(Debug, StructOpt)]
pub(crate) struct LsArgs {
    /// Size, copies, time and version too
    #[structopt(short)]
    pub(crate) long: bool,
    /// Does nothing: names that begin with a dot are always listed
    #[structopt(short, long)]
    pub(crate) _all: bool,
    /// Does nothing: sizes are always shown with units
    #[structopt(short = "h", long)]
    pub(crate) _human_readable: bool,
    /// All that lies below
    #[structopt(short = "R", long)]
    pub(crate) recursive: bool,
    /// Paths in the cluster [default: the remote directory]
    #[structopt(value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// `import`.
#[derive(Debug, StructOpt)]
pub(crate) struct ImportArgs {
    /// File or directory on this machine; - is standard input
    #[structopt(value_name = "HOST_PATH", parse(from_os_str))]
    pub(crate) host_path: PathBuf,
    /// Where it shall be in the cluster
    #[structopt(value_name = "DFS_PATH")]
    pub(crate) dfs_path: String,
}

/// `export`.
#[derive(Debug, StructOpt)]
pub(crate) struct ExportArgs {
    /// File or directory in the cluster
    #[structopt(value_name = "DFS_PATH")]
    pub(crate) dfs_path: String,
    /// Where it shall be on this machine; - is standard output
    #[structopt(value_name = "HOST_PATH", parse(from_os_str))]
    pub(crate) host_path: PathBuf,
}

/// `rm`.
#[derive(Debug, StructOpt)]
pub(crate) struct RmArgs {
    /// Directories too, with all that is in them
    #[structopt(short, long)]
    pub(crate) recursive: bool,
    /// Does not mind what is not there
    #[structopt(short, long)]
    pub(crate) force: bool,
    /// Paths in the cluster
    #[structopt(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// `mv`.
#[derive(Debug, StructOpt)]
pub(crate) struct MvArgs {
    // One list: clap takes names with dashes behind -- for options when the last of several has a name of its own.
    /// What is taken; the last one is DEST: the new path, or a directory to put everything into
    #[structopt(required = true, min_values = 2, value_name = "SRC")]
    pub(crate) paths: Vec<String>,
}

/// `cp`.
#[derive(Debug, StructOpt)]
pub(crate) struct CpArgs {
    /// Directories too, with all that is in them
    #[structopt(short, long)]
    pub(crate) recursive: bool,
    // One list: clap takes names with dashes behind -- for options when the last of several has a name of its own.
    /// What is taken; the last one is DEST: the new path, or a directory to put everything into
    #[structopt(required = true, min_values = 2, value_name = "SRC")]
    pub(crate) paths: Vec<String>,
}

/// `mkdir`.
#[derive(Debug, StructOpt)]
pub(crate) struct MkdirArgs {
    /// Missing parents too, and no error when it is there already
    #[structopt(short, long)]
    pub(crate) parents: bool,
    /// Paths in the cluster
    #[structopt(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// `tree`.
#[derive(Debug, StructOpt)]
pub(crate) struct TreeArgs {
    /// Levels to show
    #[structopt(short = "L", long, value_name = "N", parse(try_from_str = levels))]
    pub(crate) level: Option<usize>,
    /// A path in the cluster [default: the remote directory]
    #[structopt(value_name = "PATH")]
    pub(crate) path: Option<String>,
}

/// `du`.
#[derive(Debug, StructOpt)]
pub(crate) struct DuArgs {
    /// Only the sum of each PATH
    #[structopt(short, long)]
    pub(crate) summarize: bool,
    /// Levels of directories to show
    #[structopt(short = "d", long, value_name = "N")]
    pub(crate) max_depth: Option<usize>,
    /// Exact numbers of bytes
    #[structopt(short, long)]
    pub(crate) bytes: bool,
    /// Sizes with units, which is the default
    #[structopt(short = "h", long, conflicts_with = "bytes")]
    pub(crate) _human_readable: bool,
    /// Paths in the cluster [default: the remote directory]
    #[structopt(value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// `find`.
#[derive(Debug, StructOpt)]
pub(crate) struct FindArgs {
    /// A path in the cluster [default: the remote directory]
    #[structopt(value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Its last name matches: * ? [a-z] as in a shell (also spelled -name)
    #[structopt(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// The same, whatever the case (also spelled -iname)
    #[structopt(long, value_name = "PATTERN")]
    pub(crate) iname: Option<String>,
    /// f for files, d for directories (also spelled -type)
    #[structopt(long = "type", value_name = "KIND", possible_values = &["f", "d"])]
    pub(crate) kind: Option<String>,
    /// Bytes exactly N, +N more, -N less; with k, M or G for powers of 1024 (also spelled -size)
    #[structopt(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) size: Option<String>,
    /// Levels to descend (also spelled -maxdepth)
    #[structopt(long = "maxdepth", value_name = "N")]
    pub(crate) max_depth: Option<usize>,
}

/// `cd`.
#[derive(Debug, StructOpt)]
pub(crate) struct CdArgs {
    /// A directory in the cluster [default: the workspace's remote root]
    #[structopt(value_name = "PATH")]
    pub(crate) path: Option<String>,
}

/// `init`.
#[derive(Debug, StructOpt)]
pub(crate) struct InitArgs {
    /// The host directory
    #[structopt(default_value = ".", parse(from_os_str))]
    pub(crate) dir: PathBuf,
    /// The remote directory that it is a copy of; the first push makes it
    #[structopt(long, value_name = "DFS_PATH", default_value = "/")]
    pub(crate) remote: String,
}

/// `status`.
#[derive(Debug, StructOpt)]
pub(crate) struct StatusArgs {
    /// Reads every local file, whatever its times say
    #[structopt(long)]
    pub(crate) checksum: bool,
    /// Host paths inside the workspace [default: all of it]
    #[structopt(value_name = "PATH", parse(from_os_str))]
    pub(crate) paths: Vec<PathBuf>,
}

/// `push` and `pull`.
#[derive(Debug, StructOpt)]
pub(crate) struct SyncArgs {
    /// Overwrites what changed on the other side too
    #[structopt(short, long)]
    pub(crate) force: bool,
    /// Only says what would be done
    #[structopt(short = "n", long)]
    pub(crate) dry_run: bool,
    /// Reads every local file, whatever its times say
    #[structopt(long)]
    pub(crate) checksum: bool,
    /// Host paths inside the workspace [default: all of it]
    #[structopt(value_name = "PATH", parse(from_os_str))]
    pub(crate) paths: Vec<PathBuf>,
}

/// `completions`.
#[derive(Debug, StructOpt)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[structopt(possible_values = &Shell::variants(), case_insensitive = true)]
    pub(crate) shell: Shell,
}

/// Reads a command line. What clap has to say about it (help, version, wrong usage) is printed here, and the
/// exit code is the answer: clap itself would leave with 1 for wrong usage.
pub(crate) fn parse_from(args: Vec<std::ffi::OsString>) -> Result<Cli, Exit> {
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    match read(args) {
        Ok(cli) => Ok(cli),
        Err(error) => match error.kind {
            ErrorKind::HelpDisplayed | ErrorKind::VersionDisplayed => {
                // Whether anyone reads the help to its end is their business.
                let text = format!("{}\n", help(&error.message));
                let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
                Err(Exit::Done)
            }
            _ if json => {
                speak_json(true);
                tell(&Failure::usage(&usage(&error.message)));
                Err(Exit::Usage)
            }
            _ => {
                say_lines(&usage(&error.message));
                Err(Exit::Usage)
            }
        },
    }
}

/// Reads a command line and prints nothing.
pub(crate) fn read(args: Vec<std::ffi::OsString>) -> Result<Cli, structopt::clap::Error> {
    utf8::read(find_spelled_short(args))
}

/// A help as it is shown: its first line names the command as it is typed, and commands have no versions of their own.
fn help(text: &str) -> Cow<'_, str> {
    let version = concat!(" ", env!("CARGO_PKG_VERSION"));
    match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("holdfast-") && first.ends_with(version) => {
            format!("{}\n{rest}", first.trim_end_matches(version).replace('-', " ")).into()
        }
        _ => text.into(),
    }
}

/// What clap says of wrong usage, without its colours, which would be shown as escapes, and without the advice that a
/// mistyped command might have been meant as a value.
fn usage(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, coloured)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = coloured.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    let advice = |paragraph: &&str| !paragraph.starts_with("If you believe you received this message in error");
    plain.split("\n\n").filter(advice).collect::<Vec<_>>().join("\n\n")
}

fn say_lines(text: &str) {
    text.lines().for_each(say);
}

/// `find` is known by its long options with one dash; clap has only two.
fn find_spelled_short(mut args: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    if let Some(at) = args.iter().skip(1).position(|arg| arg == "find") {
        for arg in args.iter_mut().skip(at + 2) {
            if arg == "--" {
                break;
            }
            for option in ["-name", "-iname", "-type", "-size", "-maxdepth"] {
                if *arg == *option {
                    *arg = format!("-{option}").into();
                }
            }
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, Exit> {
        parse_from(std::iter::once("holdfast").chain(line.iter().copied()).map(Into::into).collect())
    }

    #[test]
    fn wrong_usage_is_2_and_help_is_0() {
        for (line, want) in [
            (&["--help"][..], Exit::Done),
            (&["ls", "--help"], Exit::Done),
            (&["--version"], Exit::Done),
            (&["frobnicate"], Exit::Usage),
            (&["import", "x"], Exit::Usage),
            (&["mv", "x"], Exit::Usage),
            (&["ls", "--jobs", "0"], Exit::Usage),
        ] {
            assert_eq!(parse(line).err(), Some(want), "{line:?}");
        }
    }

    #[test]
    fn what_clap_says_is_said_plainly() {
        let said = usage(
            "\u{1b}[1;31merror:\u{1b}[0m Found '\u{1b}[33mfoo\u{1b}[0m'\n\nIf you believe you received this message in error, try it\n\nUSAGE:",
        );
        assert_eq!(said, "error: Found 'foo'\n\nUSAGE:");
        assert_eq!(help("holdfast-token-create 0.1.0\nMakes"), "holdfast token create\nMakes");
        assert_eq!(help("holdfast 0.1.0\nFault-"), "holdfast 0.1.0\nFault-");
        let error = read(["holdfast", "nosuch"].map(Into::into).to_vec()).unwrap_err();
        assert!(error.message.contains("in error") && !usage(&error.message).contains("in error"));
        let shown = read(["holdfast", "ls", "--help"].map(Into::into).to_vec()).unwrap_err();
        assert!(help(&shown.message).starts_with("holdfast ls\n"), "{}", shown.message);
    }

    #[test]
    fn options_are_those_of_unix() {
        let Command::Ls(ls) = parse(&["ls", "-lah", "/x"]).unwrap().command else { panic!() };
        assert!(ls.long && ls.paths == ["/x"]);
        let Command::Du(du) = parse(&["du", "-sh"]).unwrap().command else { panic!() };
        assert!(du.summarize && !du.bytes);
        for (line, paths) in [
            (&["mv", "a", "b"][..], &["a", "b"][..]),
            (&["mv", "a", "b", "c"], &["a", "b", "c"]),
            (&["mv", "--", "-a", "-b"], &["-a", "-b"]),
        ] {
            let Command::Mv(mv) = parse(line).unwrap().command else { panic!() };
            assert_eq!(mv.paths, paths);
        }
        let usage = read(["holdfast", "mv", "x"].map(Into::into).to_vec()).unwrap_err().message;
        assert!(usage.contains("holdfast mv [OPTIONS] <SRC>... <DEST>"), "{usage}");
        assert_eq!(parse(&["tree", "-L", "0"]).err(), Some(Exit::Usage));
        assert!(parse(&["tree", "-L", "1"]).is_ok() && parse(&["version"]).is_ok());
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in [&["--json", "-q", "--token", "t", "ls"][..], &["ls", "--json", "-q", "--token", "t"]] {
            let global = parse(line).unwrap().global;
            assert!(global.json && global.quiet, "{line:?}");
            assert_eq!(global.token.as_deref(), Some("t"), "{line:?}");
        }
    }

    #[test]
    fn names_with_dashes_and_standard_streams() {
        let Command::Rm(rm) = parse(&["rm", "--", "-rf"]).unwrap().command else { panic!() };
        assert_eq!((rm.paths, rm.recursive), (vec!["-rf".to_string()], false));
        let Command::Import(import) = parse(&["import", "-", "/x"]).unwrap().command else { panic!() };
        assert_eq!(import.host_path, PathBuf::from("-"));
    }

    #[test]
    fn find_is_spelled_as_on_unix() {
        let Command::Find(find) =
            parse(&["find", "/a", "-name", "*.rs", "-type", "f", "-size", "-1k"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!(
            (find.name.as_deref(), find.kind.as_deref(), find.size.as_deref()),
            (Some("*.rs"), Some("f"), Some("-1k"))
        );
    }
}
