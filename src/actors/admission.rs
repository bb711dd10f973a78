//! Who answers at a URL, and whether a storage server that announces itself is taken ([`crate::decisions::admission`]).
//!
//! A name server shows its credentials only to servers that have proven to hold the cluster's secret. The question
//! itself opens nothing, wherever it goes.

use std::time::Duration;

use chrono::TimeDelta;
use uuid::Uuid;

use super::context::Context;
use crate::db::{dialect, events, server};
use crate::decisions::admission::{Admission, Announced, Known, decide, must_look_back, must_prove};
use crate::security::credential::{Challenge, Proof};
use crate::types::api::RegisterRequest;
use crate::types::storage_api::Answerer;
use crate::types::{Error, ErrorCode, EventKind, Result, ServerId};

/// How long a server may take to prove who it is.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);
/// A server's twins are written into its events once in this time: a process manager starts one again and again.
const EVENT_INTERVAL: TimeDelta = TimeDelta::minutes(1);

impl Context {
    /// Asks what answers at a URL for a proof of who it is.
    pub async fn who_answers(&self, url: &str) -> Result<Answerer> {
        let (cluster, epoch) = self.membership();
        let challenge = Challenge { nonce: Uuid::new_v4(), expires: self.standing.now() + TimeDelta::minutes(1) };
        let text = self.signer.sign(Some(cluster), epoch, &challenge)?;
        let answer = self.storage.prove(url, &text, PROOF_TIMEOUT).await?;
        let proof = self.signer.verify::<Proof>(&answer.proof)?.claims;
        if proof.nonce != challenge.nonce {
            return Err(Error::unavailable(format!("what answers at {url} repeats an old proof")));
        }
        Ok(proof.answerer)
    }
}

/// What is known of a server that announces itself, if it may be taken: the registration is made only while that is
/// still so.
///
/// Errors: `unavailable` when it may ask again, `forbidden` when it must not.
pub async fn admit(context: &Context, request: &RegisterRequest) -> Result<Option<Known>> {
    let id = ServerId::of_identity(request.identity);
    let known = context.db.read(move |connection| server::known(connection, id)).await?;
    let announced = Announced {
        identity: request.identity,
        url: request.url.clone(),
        boot_id: request.boot_id,
        index_changes: request.index_changes,
        boots: request.boots.clone(),
        replace_newer: request.replace_newer,
    };
    if !must_prove(known.as_ref(), &announced) {
        return Ok(known);
    }
    let old_url = known.as_ref().filter(|_| must_look_back(known.as_ref(), &announced)).map(|known| known.url.clone());
    let (here, there) = futures_util::join!(context.who_answers(&announced.url), async {
        match old_url {
            Some(url) => context.who_answers(&url).await.ok(),
            None => None,
        }
    });
    match decide(known.as_ref(), &announced, here.as_ref().ok(), there.as_ref()) {
        Admission::Accept { older } => {
            if let Some(why) = older {
                let what = format!(
                    "{} came back with an older copy of its data directory: {why}; what is missing on it is found by the \
                     comparison of its inventory",
                    request.name,
                );
                note(context, id, EventKind::ServerOlderCopy, &what).await;
            }
            Ok(known)
        }
        Admission::NotProven(why) => Err(match here {
            Err(error) => Error::unavailable(format!("{why} ({})", error.message())).with_source(error),
            Ok(_) => Error::unavailable(why),
        }),
        Admission::Refuse(why) => {
            note(context, id, EventKind::ServerTwin, &why).await;
            Err(Error::new(ErrorCode::Forbidden, why))
        }
    }
}

/// Tells people, once in a while however often the server asks.
async fn note(context: &Context, id: ServerId, kind: EventKind, why: &str) {
    log::warn!("{why}");
    let detail = why.to_string();
    let noted = context.db.write(move |connection| {
        let now = dialect::clock(connection)?;
        if !events::was_told(connection, kind, id.0, None, now - EVENT_INTERVAL)? {
            let event = crate::db::rows::EventRow { server: Some(id.0), ..events::row(now, kind, detail) };
            dialect::insert_events(connection, &[event])?;
        }
        Ok(())
    });
    if let Err(error) = noted.await {
        log::warn!("the event of it could not be written: {}", error.chain());
    }
}
