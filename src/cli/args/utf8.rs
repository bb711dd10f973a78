//! Arguments that are not UTF-8. clap 2 panics when it meets one where it wants text, and structopt when a field is
//! text; a name in another encoding on the command line must not end in a panic.

use std::ffi::OsString;

use structopt::StructOpt;
use structopt::clap::{ArgMatches, Error, ErrorKind};

/// The arguments that may be any bytes: paths on this machine that structopt takes as they are, by command and
/// argument. Those without a command may stand anywhere. Everything else is text.
const HOST_PATHS: [(&str, &str); 12] = [
    ("", "config"),
    ("", "ca-cert"),
    ("up", "data-dir"),
    ("down", "data-dir"),
    ("import", "host-path"),
    ("export", "host-path"),
    ("init", "dir"),
    ("status", "paths"),
    ("push", "paths"),
    ("pull", "paths"),
    ("demo", "dir"),
    ("demo", "data-dir"),
];

/// Reads arguments, the first of which is the program's name. Prints nothing.
pub(crate) fn read<T: StructOpt>(args: Vec<OsString>) -> Result<T, Error> {
    if args.iter().any(|arg| arg.to_str().is_none()) {
        // What is wrong with the line is found out with text in their places.
        T::clap().get_matches_from_safe(args.iter().map(|arg| arg.to_string_lossy().into_owned()))?;
    }
    let matches = T::clap().get_matches_from_safe(args)?;
    check(&matches, "")?;
    Ok(T::from_clap(&matches))
}

fn check(matches: &ArgMatches<'_>, command: &str) -> Result<(), Error> {
    for (name, arg) in &matches.args {
        let any_bytes = HOST_PATHS.contains(&("", name)) || HOST_PATHS.contains(&(command, name));
        if let Some(wrong) = arg.vals.iter().find(|value| !any_bytes && value.to_str().is_none()) {
            let message = format!("error: {} is not UTF-8, as {name} must be", wrong.to_string_lossy());
            return Err(Error::with_description(&message, ErrorKind::InvalidUtf8));
        }
    }
    match matches.subcommand() {
        (command, Some(matches)) => check(matches, command),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::cli::args::Cli;

    /// Reads a line of words; `@` stands for a byte that is no UTF-8.
    fn args(line: &str) -> Vec<OsString> {
        let bytes = |word: &str| word.bytes().map(|byte| if byte == b'@' { 0xe9 } else { byte }).collect();
        line.split(' ').map(|word| OsString::from_vec(bytes(word))).collect()
    }

    #[test]
    fn what_is_not_text_is_taken_for_host_paths_and_refused_elsewhere() {
        for line in [
            "holdfast import caf@ /x",
            "holdfast export /x caf@",
            "holdfast init caf@",
            "holdfast push a caf@",
            "holdfast up --data-dir caf@",
            "holdfast --config caf@ ls",
            "holdfast ls --config caf@",
        ] {
            let read: Cli = read(args(line)).unwrap();
            assert!(format!("{read:?}").contains("caf\\xE9"), "{read:?}");
        }
        // Each of these was a panic.
        for line in [
            "holdfast ls caf@",
            "holdfast import caf@ caf@",
            "holdfast rm --froce caf@",
            "holdfast rm --@",
            "holdfast -@",
            "holdfast @",
            "holdfast --token caf@ ls",
            "holdfast events --kind caf@",
            "holdfast up --database caf@",
            "holdfast setrep @ @",
            "holdfast ls -- @",
        ] {
            let error = read::<Cli>(args(line)).unwrap_err();
            assert!(!error.message.is_empty(), "{line}");
        }
        assert!(read::<crate::storage::options::Command>(args("x --data-dir caf@")).is_err());
    }
}
