//! Commands that go on until they are interrupted: what they follow is told line by line as it comes, also to a program that
//! reads it through a pipe, and Ctrl-C ends them with the documented code.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

/// Longest wait for a line, on a machine that is busy.
const LINE_WITHIN: Duration = Duration::from_secs(60);

/// A command that runs, and its lines as they come.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(cluster: &Cluster, args: &[&str]) -> Self {
        let mut child = cluster.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = channel();
        let printed = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that has this in it.
    fn line_with(&self, what: &str) -> String {
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(LINE_WITHIN) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => others.push(line),
                Err(error) => panic!("no line has {what:?} ({error}): {others:#?}"),
            }
        }
    }

    /// Ends it by a signal; its exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
        wait_for("it has ended", 30, || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_followed_comes_line_by_line_and_ends_by_ctrl_c() {
    let name_server_args = ["--health-interval", "0.3", "--down-after", "1"].map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, name_server_args, ..Plan::default() });
    let watching = Following::start(&cluster, &["report", "--watch", "--every", "1"]);
    let watching_json = Following::start(&cluster, &["--json", "report", "--watch", "--every", "1"]);
    watching.line_with("HEALTHY");
    let first: Value = serde_json::from_str(&watching_json.line_with("verdict")).unwrap();
    assert_eq!(first["verdict"], "healthy", "{first}");
    let following = Following::start(&cluster, &["events", "--follow"]);
    let of_kind = Following::start(&cluster, &["--json", "events", "--follow", "--kind", "server_down"]);
    let by = Following::start(&cluster, &["--json", "events", "--follow", "--by", "superuser"]);
    // What was there before is told first, so it follows from then on.
    following.line_with("server_joined");
    cluster.storage[0].kill();
    let line = watching.line_with("DANGER");
    assert!(line.contains("server") && line.contains("UTC") | line.contains(':'), "{line}");
    let json: Value = serde_json::from_str(&watching_json.line_with("\"danger\"")).unwrap();
    assert!(json["troubles"].as_array().is_some_and(|troubles| !troubles.is_empty()), "{json}");
    assert!(following.line_with("server_down").contains("storage-0"));
    let event: Value = serde_json::from_str(&of_kind.line_with("server_down")).unwrap();
    assert!(event["kind"] == "server_down" && event["server_name"] == "storage-0", "{event}");
    cluster.storage[0].start();
    watching.line_with("HEALTHY");
    following.line_with("server_live");
    cluster.ok(&["mkdir", "/followed"]);
    let event: Value = serde_json::from_str(&by.line_with("/followed")).unwrap();
    assert!(event["kind"] == "directory_made" && event["by"] == "superuser", "{event}");
    // A name server that is away is waited for, and said.
    cluster.name_server.kill();
    watching.line_with("UNKNOWN");
    cluster.name_server.start();
    watching.line_with("HEALTHY");
    cluster.wait_for_live(2);
    cluster.ok(&["mkdir", "/after"]);
    by.line_with("/after");
    let codes = [
        watching.end(Signal::INT),
        watching_json.end(Signal::TERM),
        following.end(Signal::INT),
        of_kind.end(Signal::INT),
        by.end(Signal::TERM),
    ];
    assert_eq!(codes, [Some(130), Some(143), Some(130), Some(130), Some(143)]);
}
