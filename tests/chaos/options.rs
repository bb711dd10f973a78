//! What a run is asked to do.

use std::path::PathBuf;

use structopt::StructOpt;

use crate::nemesis::Kind;

/// Breaks a real cluster while clients work, and checks that it keeps its promises.
#[derive(Debug, Clone, StructOpt)]
#[structopt(name = "scripts/chaos", after_help = HELP)]
pub struct Options {
    /// Seed of the operations and faults; the clients' pace differs from run to run all the same
    #[structopt(long, default_value = "1")]
    pub seed: u64,
    /// Runs, with one seed after the other
    #[structopt(long, default_value = "1")]
    pub runs: u64,
    /// How long faults are injected, in seconds
    #[structopt(long, default_value = "30")]
    pub seconds: u64,
    /// Faults, separated by commas; "none" for none
    #[structopt(long, default_value = "kill,pause", use_delimiter = true)]
    pub nemesis: Vec<String>,
    /// Where the metadata is: sqlite or postgres
    #[structopt(long, default_value = "sqlite", possible_values = &["sqlite", "postgres"])]
    pub database: String,
    /// Clients that work at the same time
    #[structopt(long, default_value = "6")]
    pub clients: u16,
    /// Storage servers
    #[structopt(long, default_value = "4")]
    pub servers: usize,
    /// Name servers (more than one on Postgres only)
    #[structopt(long, default_value = "1")]
    pub name_servers: usize,
    /// Groups of six paths each; fewer of them collide more
    #[structopt(long, default_value = "4")]
    pub groups: u8,
    /// Small files that are there before the faults begin; they are all read at the end
    #[structopt(long, default_value = "0")]
    pub preload: usize,
    /// More arguments of the name servers, in one word
    #[structopt(long, default_value = "", allow_hyphen_values = true)]
    pub name_server_args: String,
    /// More arguments of the storage servers, in one word
    #[structopt(long, default_value = "", allow_hyphen_values = true)]
    pub storage_args: String,
    /// Keep logs and history also when nothing was found
    #[structopt(long)]
    pub keep: bool,
    /// Do not ask for full replication and a clean fsck at the end
    #[structopt(long)]
    pub no_heal_check: bool,
    /// Clients lie about some writes: such a run must fail
    #[structopt(long)]
    pub lie: bool,
    /// Print faults as they happen
    #[structopt(long, short)]
    pub verbose: bool,
    /// Judge a history that was kept, and do nothing else
    #[structopt(long)]
    pub judge: Option<PathBuf>,
}

const HELP: &str = "\
NEMESES:
    kill             kill -9 of storage servers or the name server, started again
    kill-storage     kill -9 of one storage server, of some, or of all at once
    kill-name        kill -9 of a name server
    pause            a server stands still (SIGSTOP) and goes on
    partition        two random sets of servers and clients do not hear each other    (root)
    partition-oneway one set does not hear the other, which hears it                  (root)
    slow             a server's link gets slow and loses packets                      (root)
    disk-full        the disk of storage server 0 is full                             (root)
    corrupt          files of one storage server are changed, cut, swapped or deleted; never the last copy
    database         Postgres is killed; on SQLite the name server
    clock            the wall clock of a server jumps                                 (a C compiler)
    drain            a storage server is drained and taken back
    join             a storage server joins and is removed again
    unmount          a storage server's disk goes away under it and returns           (root)
    readonly         a storage server's file system becomes read-only by an error     (root)
    all              all of them that work on this machine

EXIT CODES:
    0   nothing lost, wrong, resurrected or out of order, and healed
    1   something was found; the directory with logs and history is kept
    2   wrong usage, or a nemesis that does not work here";

impl Options {
    /// The faults that are wanted.
    pub fn kinds(&self) -> Result<Vec<Kind>, String> {
        let mut kinds = Vec::new();
        for word in self.nemesis.iter().filter(|word| *word != "none") {
            if word == "all" {
                kinds.extend(Kind::ALL.into_iter().filter(|kind| kind.why_not().is_none()));
                continue;
            }
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word);
            let kind = kind.ok_or_else(|| format!("there is no nemesis {word:?}; --help lists them"))?;
            match kind.why_not() {
                None => kinds.push(kind),
                Some(why) => return Err(format!("{word} does not work here: {why}")),
            }
        }
        let mut unique = Vec::new();
        kinds.into_iter().for_each(|kind| {
            if !unique.contains(&kind) {
                unique.push(kind)
            }
        });
        Ok(unique)
    }
}

#[cfg(test)]
impl Default for Options {
    fn default() -> Self {
        Self::from_iter(["chaos"])
    }
}
