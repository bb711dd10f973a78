//! The `CertificateKeeper`: reads TLS certificates and trusted authorities again when their files change, and says in
//! time that a certificate ends. Runs on both kinds of servers that have any.
//!
//! A look every few seconds finds what was replaced in whatever way: renamed over, written anew, behind a symbolic link.
//! SIGHUP brings the look forward, and makes it say again what is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::board::Board;
use super::pass::{Nudge, PassActor, Timing, Work};
use super::pass_report::PassReport;
use super::supervisor::Supervisor;
use crate::decisions::certificate::trouble;
use crate::security::tls::{Reload, ServerCertificate, Trust};
use crate::types::{Error, Result};

/// How often the files are looked at.
const TIMING: Timing = Timing { interval: Duration::from_secs(5), deadline: Duration::from_secs(60) };
/// How often a trouble that stays is said again.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Starts the actor if there is anything to keep, and has it obey SIGHUP.
pub fn supervise(
    supervisor: &Supervisor,
    board: &Board,
    certificate: Option<Arc<ServerCertificate>>,
    trust: &Arc<Trust>,
) -> Result<()> {
    if certificate.is_none() && trust.file().is_none() {
        return Ok(());
    }
    let asked = Arc::new(AtomicBool::new(false));
    let work = KeepCertificates { certificate, trust: trust.clone(), asked: asked.clone(), said: Arc::default() };
    let keeper = PassActor::supervise(supervisor, board, "CertificateKeeper", TIMING, work);
    let mut hangups = signal(SignalKind::hangup()).map_err(|error| Error::io("listening for SIGHUP", error))?;
    actix::spawn(async move {
        while hangups.recv().await.is_some() {
            asked.store(true, Ordering::Relaxed);
            keeper.nudge(Nudge);
        }
    });
    Ok(())
}

/// The work of the actor.
#[derive(Clone)]
struct KeepCertificates {
    certificate: Option<Arc<ServerCertificate>>,
    trust: Arc<Trust>,
    /// Somebody asks by a signal.
    asked: Arc<AtomicBool>,
    said: Arc<Mutex<Said>>,
}

/// What was said, so that it is not said with every look.
#[derive(Default)]
struct Said {
    /// Of the own certificate, and when.
    trouble: Option<(String, Instant)>,
    /// Of the authorities.
    distrust: Option<String>,
}

impl Work for KeepCertificates {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        let work = self.clone();
        Box::pin(async move {
            // Files may be on a slow or hanging file system.
            tokio::task::spawn_blocking(move || work.look())
                .await
                .map_err(|error| Error::internal("looking at the certificates panicked").with_source(error))
        })
    }
}

impl KeepCertificates {
    fn look(&self) -> PassReport {
        let asked = self.asked.swap(false, Ordering::Relaxed);
        let replaced = self.certificate.as_ref().is_some_and(|own| self.look_at_own(own, asked));
        let changed = self.look_at_trust(asked);
        let counts =
            vec![("certificates replaced", usize::from(replaced)), ("authorities changed", usize::from(changed))];
        PassReport::of(counts)
    }

    /// Answers whether a new certificate was taken.
    fn look_at_own(&self, own: &ServerCertificate, asked: bool) -> bool {
        let (now, file) = (Utc::now(), own.file().display());
        let reload = own.reload(now, asked);
        let until = own.status().validity.until.format("%Y-%m-%d %H:%M UTC");
        match &reload {
            Reload::Replaced => {
                log::info!("the TLS certificate in {file} is new, and in use from now on; it ends on {until}")
            }
            Reload::Refused(reason) => {
                log::error!("the new TLS certificate cannot be used, the one until {until} goes on: {reason}");
            }
            Reload::Same if asked => log::info!("the TLS certificate in {file} is the one in use; it ends on {until}"),
            Reload::Same => {}
        }
        // What cannot be used was said above.
        let lasting = crate::types::storage_api::CertificateStatus { refused: None, ..own.status() };
        let mut said = self.said.lock();
        match trouble(&lasting, now) {
            None => said.trouble = None,
            Some(text) => {
                let known =
                    said.trouble.as_ref().is_some_and(|(known, at)| *known == text && at.elapsed() < SAY_AGAIN_AFTER);
                if !known || asked {
                    log::warn!("{file}: {text}");
                    said.trouble = Some((text, Instant::now()));
                }
            }
        }
        reload == Reload::Replaced
    }

    /// Answers whether other authorities are trusted from now on.
    fn look_at_trust(&self, asked: bool) -> bool {
        let Some(file) = self.trust.file().map(|file| file.display()) else { return false };
        let mut said = self.said.lock();
        match self.trust.reload() {
            Ok(changed) => {
                if changed {
                    log::info!("the authorities in {file} are others; they are trusted from now on");
                }
                said.distrust = None;
                changed
            }
            Err(error) => {
                let reason = error.message().to_string();
                if asked || said.distrust.as_ref() != Some(&reason) {
                    log::error!(
                        "the authorities cannot be read again, those that were read before are still trusted: {reason}"
                    );
                    said.distrust = Some(reason);
                }
                false
            }
        }
    }
}
