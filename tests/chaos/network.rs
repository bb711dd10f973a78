//! A network of its own: each server in a network namespace, all on one bridge, so that they can be cut off from
//! each other. The runner, which lives at the bridge, is the clients.
//!
//! All of it is made inside the runner's own network and mount namespaces (see `inside`): it goes with the runner,
//! however that ends, and nobody else on the machine sees it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Mutex;

/// Rules of partitions come before the one that lets packets in.
const PRIORITY_OF_LOCAL: &str = "100";
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A machine of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What people call it.
    pub name: String,
    /// Its network namespace; the runner's own has no name.
    pub namespace: Option<String>,
    pub address: Ipv4Addr,
}

/// How a slow link is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slowness {
    /// Delay and loss.
    Netem,
    /// Little bandwidth and a short queue: what does not fit waits or is lost.
    Bucket,
}

pub struct Network {
    prefix: String,
    hosts: Mutex<Vec<Host>>,
    pub slowness: Slowness,
}

/// Runs a command that must succeed.
fn must(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn may(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    Command::new(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
}

impl Host {
    /// A command inside this host, as a line.
    fn inside(&self, line: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("nsenter --net=/run/netns/{namespace} {line}"),
            None => line.into(),
        }
    }

    /// The beginning of a command line that runs in this host.
    pub fn wrapper(&self) -> Vec<String> {
        self.namespace.iter().flat_map(|name| ["nsenter".into(), format!("--net=/run/netns/{name}")]).collect()
    }

    /// Takes no more packets from another host; they vanish silently.
    pub fn cut(&self, from: &Host, priority: u32) {
        may(&self.inside(&format!("ip rule add from {} priority {priority} blackhole", from.address)));
    }

    pub fn join(&self, from: &Host, priority: u32) {
        may(&self.inside(&format!("ip rule del from {} priority {priority} blackhole", from.address)));
    }

    fn let_rules_come_first(&self) {
        must(&self.inside(&format!("ip rule add priority {PRIORITY_OF_LOCAL} lookup local")));
        must(&self.inside("ip rule del priority 0"));
    }
}

impl Network {
    /// A network with nobody but the clients.
    pub fn new(prefix: &str) -> Self {
        // `ip netns` keeps its names there; this is the runner's own mount namespace.
        must("mount -t tmpfs none /run");
        must(&format!("ip link add {prefix}br type bridge"));
        must(&format!("ip addr add {CLIENTS}/24 dev {prefix}br"));
        must(&format!("ip link set {prefix}br up"));
        let clients = Host { name: "the clients".into(), namespace: None, address: CLIENTS };
        clients.let_rules_come_first();
        let netem = may(&format!("tc qdisc add dev {prefix}br root netem delay 1ms"));
        if netem {
            must(&format!("tc qdisc del dev {prefix}br root"));
        }
        let slowness = if netem { Slowness::Netem } else { Slowness::Bucket };
        Self { prefix: prefix.into(), hosts: Mutex::new(vec![clients]), slowness }
    }

    pub fn add(&self, name: &str) -> Host {
        let mut hosts = self.hosts.lock().unwrap();
        let number = hosts.len();
        let prefix = &self.prefix;
        let namespace = format!("{prefix}{number}");
        let address = Ipv4Addr::new(10, 77, 0, 10 + number as u8);
        for line in [
            format!("ip netns add {namespace}"),
            format!("ip link add {prefix}v{number} type veth peer name eth0 netns {namespace}"),
            format!("ip link set {prefix}v{number} master {prefix}br up"),
            format!("ip -n {namespace} addr add {address}/24 dev eth0"),
            format!("ip -n {namespace} link set eth0 up"),
            format!("ip -n {namespace} link set lo up"),
        ] {
            must(&line);
        }
        let host = Host { name: name.into(), namespace: Some(namespace), address };
        host.let_rules_come_first();
        hosts.push(host.clone());
        host
    }

    /// All hosts; the clients are the first.
    pub fn hosts(&self) -> Vec<Host> {
        self.hosts.lock().unwrap().clone()
    }

    /// Makes a host's link slow in both directions.
    pub fn slow(&self, host: &Host, delay_ms: u32, loss_percent: u32, rate_kbit: u32) {
        let how = match self.slowness {
            Slowness::Netem => format!("netem delay {delay_ms}ms {}ms loss {loss_percent}%", delay_ms / 4),
            Slowness::Bucket => format!("tbf rate {rate_kbit}kbit burst 16kb latency {}ms", delay_ms * 4),
        };
        for device in self.devices(host) {
            may(&device.replace("ACTION", "add").replace("HOW", &how));
        }
    }

    pub fn hurry(&self, host: &Host) {
        for device in self.devices(host) {
            may(&device.replace("ACTION", "del").replace("HOW", ""));
        }
    }

    /// Command lines for both ends of a host's link.
    fn devices(&self, host: &Host) -> [String; 2] {
        let number = host.address.octets()[3] - 10;
        let outer = format!("tc qdisc ACTION dev {}v{number} root HOW", self.prefix);
        [host.inside("tc qdisc ACTION dev eth0 root HOW"), outer]
    }

    /// Takes all rules of these priorities away.
    pub fn heal(&self, priorities: std::ops::Range<u32>) {
        for host in self.hosts() {
            for priority in priorities.clone() {
                while may(&host.inside(&format!("ip rule del priority {priority}"))) {}
            }
            if host.namespace.is_some() {
                self.hurry(&host);
            }
        }
    }
}

/// So that the next run in these namespaces finds what this one found.
impl Drop for Network {
    fn drop(&mut self) {
        let hosts = self.hosts();
        for (number, host) in hosts.iter().enumerate().skip(1) {
            may(&format!("ip link del {}v{number}", self.prefix));
            may(&format!("ip netns del {}", host.namespace.as_deref().unwrap_or_default()));
        }
        may(&format!("ip link del {}br", self.prefix));
        may("ip rule add priority 0 lookup local");
        may(&format!("ip rule del priority {PRIORITY_OF_LOCAL}"));
        may("umount -l /run");
    }
}
