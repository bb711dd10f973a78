//! What people do: drains that go too far, certificates that nobody renewed, tokens that are revoked, much that is removed.

use std::path::PathBuf;
use std::sync::OnceLock;

use chrono::TimeDelta;

use crate::common::cluster::Plan;
use crate::common::{tls, wait_for};
use crate::night::Act::{Hands, Run};
use crate::night::{NAMED_WITHIN, Night, Trouble, plan};

fn drain(night: &Night, names: &[&str]) {
    for name in names {
        night.cluster.ok(&["drain", "--force", name]);
    }
}

pub fn too_much_is_drained() -> Trouble {
    Trouble {
        what: "Two of three storage servers are drained: writes are refused",
        plan,
        make: |night| drain(night, &["storage-0", "storage-1"]),
        code: "writes_refused",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast undrain storage-0")],
    }
}

pub fn a_drain_cannot_end() -> Trouble {
    Trouble {
        what: "One of two storage servers is drained, and its files want two copies",
        plan: || Plan { storage_servers: 2, ..plan() },
        make: |night| drain(night, &["storage-0"]),
        code: "drain_stuck",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast undrain storage-0")],
    }
}

static CERTS: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();

/// Certificates for the name server and two storage servers.
fn certs() -> &'static PathBuf {
    let (_, dir) = CERTS.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("certs");
        tls::init(&dir);
        ["name-server", "storage-0", "storage-1"].iter().for_each(|name| tls::server(&dir, name));
        (home, dir)
    });
    dir
}

pub fn a_certificate_ends() -> Trouble {
    Trouble {
        what: "A storage server's certificate ends in three days",
        plan: || Plan { storage_servers: 2, certs: Some(certs().clone()), ..plan() },
        make: |night| {
            tls::odd(certs(), "storage-0", &["127.0.0.1", "localhost"], (TimeDelta::days(-300), TimeDelta::days(3)));
            night.cluster.storage[0].signal(rustix::process::Signal::HUP);
        },
        code: "certificate_ends",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("make it anew where the authority is", |_| tls::renew(certs(), "storage-0", 300))],
    }
}

pub fn a_token_is_revoked() -> Trouble {
    Trouble {
        what: "The token of a client is revoked",
        plan,
        make: |night| {
            let token = night.cluster.ok(&["token", "create", "monitor"]).trim().to_string();
            night.cluster.ok(&["token", "revoke", "monitor"]);
            night.superuser = std::mem::replace(&mut night.cluster.token, token);
        },
        code: "unauthorized",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("whoever has a superuser's token makes one: `holdfast token create NAME`", |night| {
            night.cluster.token = night.superuser.clone();
            let made = night.cluster.ok(&["token", "create", "NAME"]).trim().to_string();
            night.cluster.token = made;
            assert_eq!(night.report().unwrap()["verdict"], "healthy");
            night.cluster.token = night.superuser.clone();
        })],
    }
}

/// With two copies of each: more deletions than are due in the ordinary course.
const REMOVED_FILES: usize = 1_200;

pub fn many_files_are_removed() -> Trouble {
    Trouble {
        what: "Very many files are removed at once",
        plan: || {
            let args = ["--health-interval", "0.3", "--down-after", "1.5", "--repair-delay", "5", "--read-ttl", "8"];
            Plan { name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
        },
        make: |night| {
            let many = night.cluster.path("many");
            std::fs::create_dir(&many).unwrap();
            for number in 0..REMOVED_FILES {
                std::fs::write(many.join(number.to_string()), number.to_string()).unwrap();
            }
            night.cluster.ok(&["--jobs", "32", "import", many.to_str().unwrap(), "/many"]);
            // Their bytes stay for as long as somebody may read them, so all of them are due at the same time.
            night.cluster.ok(&["rm", "-r", "/many"]);
        },
        code: "deletions_wait",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("nothing: they go on by themselves", |night| {
            assert_eq!(night.told["severity"], "notice", "{}", night.told);
            assert!(night.told["what"].as_str().unwrap().starts_with("2,"), "{}", night.told);
            wait_for("all are carried out", 120, || (night.report()?["outbox"] == 0).then_some(()));
        })],
    }
}
