//! What people do: drains that go too far, certificates that nobody renewed.

use std::path::PathBuf;
use std::sync::OnceLock;

use chrono::TimeDelta;

use crate::common::cluster::Plan;
use crate::common::tls;
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
        remedy: vec![Hands("make it anew where the authority is", |_| tls::renew(certs(), "storage-0", 300))],
    }
}
