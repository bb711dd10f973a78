//! Whether a storage server that announces itself is what it says.
//!
//! A process is told by its boot id, and by what answers at a URL: not by URLs and not by health. One that is new, has
//! started again or has moved is asked at the URL that it announces; one that has moved is looked for at its old URL
//! too, where the other half of a pair of twins (a cloned machine, a copied directory) would answer.
//!
//! Of two copies of one directory that have not parted, the one whose index has seen more changes is newer. They have
//! parted when one of them was taken for the server and the other one does not know of that start: each directory
//! remembers its starts, before it announces them. Then each may have what the other one lacks, whatever their changes
//! count up to, and the one that was taken last is the newer. An older one never takes the place of a newer one that was
//! somewhere else, unless a person says that the newer one is lost. At the same URL it does: there somebody has put it
//! back, and its inventory is compared like that of every server that returns.

use uuid::Uuid;

use crate::types::storage_api::Answerer;
use crate::types::words::counted;

/// What the metadata has of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What people call it.
    pub name: String,
    /// Where it was reached.
    pub url: String,
    /// Its last start that was heard of.
    pub boot_id: Option<Uuid>,
    /// The changes that its index had.
    pub index_changes: i64,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The UUID that it made for itself.
    pub identity: Uuid,
    /// Where it wants to be reached.
    pub url: String,
    /// New with each start.
    pub boot_id: Uuid,
    /// The changes that its index has.
    pub index_changes: i64,
    /// The last starts of its directory; none from a program that does not remember them.
    pub boots: Vec<Uuid>,
    /// A person says that the newer copy of its directory is lost.
    pub replace_newer: bool,
}

/// What comes of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is taken. `older` is why its directory is an older copy, if it is.
    Accept {
        /// For people.
        older: Option<String>,
    },
    /// Not now: what answers at its URL is not it. It may ask again.
    NotProven(String),
    /// Never: another process is this server, or has a newer copy of its directory.
    Refuse(String),
}

/// Whether the announced URL must be asked who answers there. One that says what is known already need not be.
pub fn must_prove(known: Option<&Known>, announced: &Announced) -> bool {
    known.is_none_or(|known| known.url != announced.url || known.boot_id != Some(announced.boot_id))
}

/// Whether the old URL must be asked too: the server has moved.
pub fn must_look_back(known: Option<&Known>, announced: &Announced) -> bool {
    known.is_some_and(|known| known.url != announced.url)
}

/// Decides, by who answers at the announced URL and at the one that is known; `None` where nobody proves anything.
pub fn decide(
    known: Option<&Known>,
    announced: &Announced,
    here: Option<&Answerer>,
    there: Option<&Answerer>,
) -> Admission {
    let Announced { identity, url, boot_id, .. } = announced;
    match here {
        None => {
            return Admission::NotProven(format!(
                "nothing at {url} proves that it belongs to this cluster: give the storage server a --url at which the \
                 name server reaches it"
            ));
        }
        Some(other) if other.identity != *identity => {
            return Admission::NotProven(format!(
                "another storage server (identity {}) answers at {url}: give each storage server a --url of its own",
                other.identity
            ));
        }
        Some(other) if other.boot_id != *boot_id => return twin(known, announced, url),
        Some(_) => {}
    }
    let Some(known) = known else { return Admission::Accept { older: None } };
    let older = why_older(known, announced);
    if known.url == *url {
        return Admission::Accept { older };
    }
    match there {
        // One process that is reached by both URLs.
        Some(same) if same.identity == *identity && same.boot_id == *boot_id => Admission::Accept { older: None },
        Some(other) if other.identity == *identity => twin(Some(known), announced, &known.url),
        _ => match older {
            Some(why) if !announced.replace_newer => Admission::Refuse(format!(
                "the data directory that announced itself from {url} is an older copy of that of {} ({identity}), which was \
                 at {} and does not answer there now: {why}. Start that one; or, if it is lost, start this one with \
                 --replace-newer: what it lacks is copied to it from the other servers",
                known.name, known.url
            )),
            older => Admission::Accept { older },
        },
    }
}

/// Why what announces itself is an older copy of what was known, if it is.
fn why_older(known: &Known, announced: &Announced) -> Option<String> {
    let behind = known.index_changes.saturating_sub(announced.index_changes);
    if behind > 0 {
        return Some(format!("its index lacks {}", counted(behind.unsigned_abs(), "change")));
    }
    let last = known.boot_id.filter(|_| !announced.boots.is_empty())?;
    (!announced.boots.contains(&last)).then(|| "it knows nothing of the last start of the other one".into())
}

fn twin(known: Option<&Known>, announced: &Announced, where_: &str) -> Admission {
    let name = known.map_or("a storage server", |known| known.name.as_str());
    Admission::Refuse(format!(
        "two processes are {name} (identity {}): one answers at {where_}, and another one (boot {}) announced itself from \
         {}. A data directory must not be copied: stop one of them, and start it again with an empty directory",
        announced.identity, announced.boot_id, announced.url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);
    const OLD_BOOT: Uuid = Uuid::from_u128(10);
    const NEW_BOOT: Uuid = Uuid::from_u128(11);

    fn known() -> Known {
        Known { name: "storage-1".into(), url: "http://a".into(), boot_id: Some(OLD_BOOT), index_changes: 100 }
    }

    fn announced(url: &str, boot_id: Uuid, index_changes: i64) -> Announced {
        let boots = vec![OLD_BOOT, boot_id];
        Announced { identity: SERVER, url: url.into(), boot_id, index_changes, boots, replace_newer: false }
    }

    fn answers(identity: Uuid, boot_id: Uuid, url: &str) -> Option<Answerer> {
        Some(Answerer { identity, boot_id, url: url.into() })
    }

    #[test]
    fn only_what_is_known_already_need_not_prove_itself() {
        let known = known();
        assert!(!must_prove(Some(&known), &announced("http://a", OLD_BOOT, 0)));
        assert!(must_prove(Some(&known), &announced("http://a", NEW_BOOT, 0)));
        assert!(must_prove(Some(&known), &announced("http://b", OLD_BOOT, 0)));
        assert!(must_prove(None, &announced("http://a", OLD_BOOT, 0)));
        assert!(!must_look_back(None, &announced("http://a", OLD_BOOT, 0)));
        assert!(must_look_back(Some(&known), &announced("http://b", NEW_BOOT, 0)));
    }

    #[test]
    fn a_process_is_what_answers_and_not_what_it_says() {
        #[derive(Debug, PartialEq)]
        enum Want {
            Accept,
            AcceptOlder,
            Wait,
            Refuse,
        }
        use Want::*;
        let (a, b) = ("http://a", "http://b");
        let me = |url| answers(SERVER, NEW_BOOT, url);
        let twin = |url| answers(SERVER, OLD_BOOT, url);
        let stranger = |url| answers(OTHER, NEW_BOOT, url);
        for (case, known, announced, here, there, want) in [
            ("a new one", None, announced(b, NEW_BOOT, 5), me(b), None, Accept),
            ("a new one that cannot be reached", None, announced(b, NEW_BOOT, 5), None, None, Wait),
            ("a new one with another's url", None, announced(b, NEW_BOOT, 5), stranger(b), None, Wait),
            ("started again", Some(known()), announced(a, NEW_BOOT, 100), me(a), None, Accept),
            ("an older copy put in its place", Some(known()), announced(a, NEW_BOOT, 60), me(a), None, AcceptOlder),
            ("a clone with the same url", Some(known()), announced(a, NEW_BOOT, 100), twin(a), None, Refuse),
            ("a clone with its own url", Some(known()), announced(b, NEW_BOOT, 100), me(b), twin(a), Refuse),
            ("moved, reached by both urls", Some(known()), announced(b, NEW_BOOT, 1), me(b), me(a), Accept),
            ("moved", Some(known()), announced(b, NEW_BOOT, 100), me(b), None, Accept),
            ("moved, another one has its url", Some(known()), announced(b, NEW_BOOT, 101), me(b), stranger(a), Accept),
            ("an old copy while the original restarts", Some(known()), announced(b, NEW_BOOT, 99), me(b), None, Refuse),
            (
                "an old copy, another one has its url",
                Some(known()),
                announced(b, NEW_BOOT, 9),
                me(b),
                stranger(a),
                Refuse,
            ),
        ] {
            let got = match decide(known.as_ref(), &announced, here.as_ref(), there.as_ref()) {
                Admission::Accept { older: None } => Accept,
                Admission::Accept { older: Some(_) } => AcceptOlder,
                Admission::NotProven(_) => Wait,
                Admission::Refuse(_) => Refuse,
            };
            assert_eq!(got, want, "{case}");
        }
        let word = Announced { replace_newer: true, ..announced(b, NEW_BOOT, 9) };
        let older = Some("its index lacks 91 changes".to_string());
        assert_eq!(decide(Some(&known()), &word, me(b).as_ref(), None), Admission::Accept { older });
        assert!(
            matches!(decide(Some(&known()), &word, me(b).as_ref(), twin(a).as_ref()), Admission::Refuse(_)),
            "no word helps while the other one answers"
        );
        let Admission::Refuse(both) =
            decide(Some(&known()), &announced(b, NEW_BOOT, 1), me(b).as_ref(), twin(a).as_ref())
        else {
            panic!("it is a twin");
        };
        assert!(both.contains(a) && both.contains(b) && both.contains("storage-1"), "{both}");
    }

    #[test]
    fn copies_that_have_parted_are_not_compared_by_their_changes() {
        let (a, b) = ("http://a", "http://b");
        let me = |url: &str| answers(SERVER, NEW_BOOT, url);
        let parted = |url: &str| Announced { boots: vec![OTHER, NEW_BOOT], ..announced(url, NEW_BOOT, 900) };
        let decided = |announced: &Announced, there: Option<Answerer>| {
            decide(Some(&known()), announced, me(&announced.url).as_ref(), there.as_ref())
        };
        let Admission::Refuse(why) = decided(&parted(b), None) else { panic!("it takes the place of another one") };
        assert!(why.contains("older copy") && why.contains("last start") && why.contains("--replace-newer"), "{why}");
        assert!(matches!(decided(&parted(b), answers(OTHER, OLD_BOOT, a)), Admission::Refuse(_)));
        // Where it was: somebody has put it back, and is told.
        assert!(matches!(decided(&parted(a), None), Admission::Accept { older: Some(_) }));
        // One process by two names, a person's word, and programs that do not remember their starts.
        assert_eq!(decided(&parted(b), me(a)), Admission::Accept { older: None });
        let word = Announced { replace_newer: true, ..parted(b) };
        assert!(matches!(decided(&word, None), Admission::Accept { older: Some(_) }));
        assert_eq!(decided(&Announced { boots: Vec::new(), ..parted(b) }, None), Admission::Accept { older: None });
        // Nobody has heard of any start of it, as after a restore.
        let unheard = Known { boot_id: None, ..known() };
        let taken = decide(Some(&unheard), &parted(b), me(b).as_ref(), None);
        assert_eq!(taken, Admission::Accept { older: None });
    }
}
