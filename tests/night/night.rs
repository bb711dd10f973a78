//! How a trouble is made, looked at, and mended by what is printed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use diesel::PgConnection;
use serde_json::{Value, json};

use crate::common::cluster::{Cluster, Plan, Process};
use crate::common::relay::Relay;
use crate::common::restore::Backup;
use crate::common::wait_for;

/// `report` must name a trouble so soon, in seconds.
pub const NAMED_WITHIN: u64 = 10;
/// From the remedy until the cluster is healthy, in seconds.
const HEALTHY_WITHIN: u64 = 120;
/// A command of a remedy may have to wait for what was ordered before it, in seconds.
const COMMAND_WITHIN: u64 = 60;
/// Files of each night.
const FILES: usize = 20;

/// What happens to an operator, and what is printed about it.
pub struct Trouble {
    /// As the runbook tells it.
    pub what: &'static str,
    pub plan: fn() -> Plan,
    pub make: fn(&mut Night),
    /// What `report` calls it.
    pub code: &'static str,
    /// Within how many seconds.
    pub within: u64,
    /// Its file systems are mounted.
    pub needs_root: bool,
    pub remedy: Vec<Act>,
}

/// A part of a remedy, which must be in the sentence that `report` prints.
pub enum Act {
    /// A command, word for word.
    Run(&'static str),
    /// What only hands can do, with the words for it.
    Hands(&'static str, fn(&mut Night)),
}

impl Act {
    fn words(&self) -> &'static str {
        match self {
            Self::Run(words) | Self::Hands(words, _) => words,
        }
    }

    /// As it stands in the runbook.
    fn written(&self) -> String {
        match self {
            Self::Run(words) => format!("`{words}`"),
            Self::Hands(words, _) => words.to_string(),
        }
    }
}

/// Nothing has to be done.
pub fn nothing(_: &mut Night) {}

/// A cluster with files, and what a trouble needs besides.
pub struct Night {
    pub cluster: Cluster,
    pub files: BTreeMap<String, Vec<u8>>,
    pub database: Option<String>,
    /// Further servers.
    pub others: Vec<Process>,
    pub backup: Option<Backup>,
    /// Between two servers.
    pub relay: Option<Relay>,
    /// Somebody else's session in the database.
    pub session: Option<PgConnection>,
    /// The token that may do everything, while the cluster's client has another one.
    pub superuser: String,
    /// What `report` said of the trouble.
    pub told: Value,
}

/// Timers that let a night pass in seconds.
pub fn plan() -> Plan {
    let args = ["--health-interval", "0.3", "--down-after", "1.5", "--repair-delay", "5", "--read-ttl", "1"];
    Plan { name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
}

impl Night {
    fn start(plan: &Plan) -> Self {
        let cluster = Cluster::start(plan);
        let database = plan.database.clone();
        let mut night = Self {
            cluster,
            files: BTreeMap::new(),
            database,
            others: Vec::new(),
            backup: None,
            relay: None,
            session: None,
            superuser: String::new(),
            told: Value::Null,
        };
        for number in 0..FILES {
            // Large ones are files on the disks of the storage servers, small ones are in their indexes.
            let size = if number % 2 == 0 { 150_000 } else { 900 };
            night.write(&format!("/f{number}"), (0..size).map(|i| (i * 7 + number) as u8).collect());
        }
        night.wait_until_healthy();
        night.wait_for_the_journal();
        night
    }

    pub fn write(&mut self, path: &str, bytes: Vec<u8>) {
        let body = self.cluster.path("body");
        fs::write(&body, &bytes).unwrap();
        self.cluster.ok(&["import", body.to_str().unwrap(), path]);
        self.files.insert(path.into(), bytes);
    }

    /// Until all changes are on the copies of the journal.
    pub fn wait_for_the_journal(&self) {
        wait_for("the journal's copies have everything", 30, || {
            let report = self.report()?;
            (report["journal"]["copied_version"] == report["version"]).then_some(())
        });
    }

    /// What `holdfast report` says, if it says anything.
    pub fn report(&self) -> Option<Value> {
        let (_, printed, _) = self.cluster.run(&["report", "--json"]);
        serde_json::from_str(&printed).ok()
    }

    /// Until `report` does not name it any more.
    pub fn wait_until_gone(&self, code: &str) {
        wait_for("the trouble is over", HEALTHY_WITHIN, || {
            let troubles = self.report()?["troubles"].as_array()?.clone();
            troubles.iter().all(|trouble| trouble["code"] != code).then_some(())
        });
    }

    /// Carries out the command in the sentence that says what is so.
    pub fn do_what_the_sentence_says(&self) {
        let what = self.told["what"].as_str().unwrap();
        let command = what.split('`').find(|part| part.starts_with("holdfast ")).unwrap_or_else(|| panic!("{what}"));
        self.cluster.ok(&command.split(' ').skip(1).collect::<Vec<_>>());
    }

    pub fn wait_until_healthy(&self) {
        let seconds = HEALTHY_WITHIN;
        let mut last = Value::Null;
        let healthy = || {
            last = self.report()?;
            let quiet = last["repair"]["queued"] == 0 && last["repair"]["in_flight"] == 0;
            (last["verdict"] == "healthy" && quiet).then_some(())
        };
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("healthy", seconds, healthy)));
        assert!(told.is_ok(), "not healthy after {seconds} s: {last:#}");
    }

    fn trouble(&self, code: &str, seconds: u64) -> Value {
        let mut last = None;
        let named = || {
            let (_, printed, errors) = self.cluster.run(&["report", "--json"]);
            if let Ok(report) = serde_json::from_str::<Value>(&printed) {
                let found = report["troubles"].as_array()?.iter().find(|trouble| trouble["code"] == code).cloned();
                last = Some(report);
                return found;
            }
            // Nothing can be reported: then the failure says what is so, and what to do.
            let mut said = errors.lines().flat_map(serde_json::from_str::<Value>);
            let failure = said.find(|said| said["code"].is_string())?;
            let found = (failure["code"] == code)
                .then(|| json!({ "code": code, "what": failure["message"], "remedy": failure["remedy"] }));
            last = Some(failure);
            found
        };
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("named", seconds, named)));
        told.unwrap_or_else(|_| panic!("`report` does not name {code} within {seconds} s: {last:#?}"))
    }

    /// Carries a part of a remedy out.
    fn act(&mut self, act: &Act) {
        let words = match act {
            Act::Hands(_, hands) => return hands(self),
            Act::Run(words) => words,
        };
        let args: Vec<&str> = words.split(' ').skip(1).collect();
        wait_for(words, COMMAND_WITHIN, || {
            let (code, printed, errors) = self.cluster.run(&args);
            if code != 0 {
                eprintln!("{words}: {code} {printed}{errors}");
                std::thread::sleep(Duration::from_millis(300));
            }
            (code == 0).then_some(())
        });
    }

    /// Every file is there, with its bytes, and nothing is wrong with what is stored.
    fn nothing_is_lost(&self) {
        let back = self.cluster.path("back");
        for (path, bytes) in &self.files {
            self.cluster.ok(&["export", path, back.to_str().unwrap()]);
            assert!(fs::read(&back).unwrap() == *bytes, "{path} has other bytes");
            fs::remove_file(&back).unwrap();
        }
        let (code, printed, errors) = self.cluster.run(&["fsck"]);
        assert_eq!(code, 0, "{printed}{errors}");
    }
}

/// Makes a trouble, and does what an operator does about it.
pub fn live_through(trouble: Trouble) {
    if trouble.needs_root && !rustix::process::geteuid().is_root() {
        return eprintln!("left out, because file systems are mounted for it, which needs root: {}", trouble.what);
    }
    let mut night = Night::start(&(trouble.plan)());
    (trouble.make)(&mut night);
    let told = night.trouble(trouble.code, trouble.within);
    let remedy = told["remedy"].as_str().unwrap();
    for act in &trouble.remedy {
        assert!(remedy.contains(act.words()), "`report` says {remedy:?}, and not {:?}", act.words());
    }
    night.told = told.clone();
    for act in &trouble.remedy {
        night.act(act);
    }
    night.wait_until_healthy();
    night.nothing_is_lost();
}

/// The table of the troubles, in Markdown.
pub fn runbook(troubles: &[Trouble]) -> String {
    let mut table = String::from("| what happens | `report` calls it | what it says to do |\n| --- | --- | --- |\n");
    for trouble in troubles {
        let acts: Vec<String> = trouble.remedy.iter().map(Act::written).collect();
        table.push_str(&format!("| {} | `{}` | {} |\n", trouble.what, trouble.code, acts.join("; ")));
    }
    table
}
