//! Options of every command.

use std::path::PathBuf;

use structopt::StructOpt;

// Options of every command.
#[derive(Clone, Default, StructOpt)]
pub(crate) struct GlobalArgs {
    // The environment is read in `config`: what was typed counts more, and that cannot be seen here.
    /// File with `name_servers` (a list of URLs) and `token`, as `holdfast up` writes it [env: HOLDFAST_CONFIG]
    #[structopt(long, global = true, display_order = 1001, value_name = "FILE", parse(from_os_str))]
    pub(crate) config: Option<PathBuf>,
    /// The name server's URL, or several with commas between [env: HOLDFAST_NAME_SERVER]
    #[structopt(long, global = true, display_order = 1002, value_name = "URL")]
    pub(crate) name_server: Option<String>,
    /// The bearer token; better in a file or the environment, where other users do not see it [env: HOLDFAST_TOKEN]
    #[structopt(long, global = true, display_order = 1003, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Certificates (PEM) to trust besides the system's [env: HOLDFAST_CA_CERT]
    #[structopt(long, global = true, display_order = 1004, value_name = "FILE", parse(from_os_str))]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Transfers at the same time [default: 16]
    #[structopt(short = "j", long, global = true, display_order = 1005, value_name = "N", parse(try_from_str = jobs))]
    pub(crate) jobs: Option<usize>,
    /// Prints data as JSON
    #[structopt(long, global = true, display_order = 1006)]
    pub(crate) json: bool,
    /// No progress; only what went wrong
    #[structopt(short, long, global = true, display_order = 1007)]
    pub(crate) quiet: bool,
    /// Logs what it does on standard error (twice: in detail); RUST_LOG says it finer
    #[structopt(short, long, global = true, display_order = 1008, parse(from_occurrences))]
    pub(crate) verbose: u8,
}

impl std::fmt::Debug for GlobalArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let shown = (&self.config, &self.name_server, token, &self.ca_cert);
        f.debug_tuple("GlobalArgs").field(&shown).finish()
    }
}

impl GlobalArgs {
    /// Whether the options say the same about where the cluster is.
    pub(crate) fn same_cluster_as(&self, other: &Self) -> bool {
        let of =
            |args: &Self| (args.config.clone(), args.name_server.clone(), args.token.clone(), args.ca_cert.clone());
        of(self) == of(other)
    }
}

fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=256) => Ok(number),
        _ => Err("must be a number from 1 to 256".into()),
    }
}
