//! The words of what happened: kinds of events, and the causes that copies are made and deleted for.
//!
//! They are stored, travel on the wire and are typed by people, so a word never changes. `docs/operations.md` lists the
//! kinds; a test compares.

use super::{Error, Result, ServerId};

/// An enum of words, each with its meaning.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $word:literal, $meaning:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each has its meaning beside it")]
        pub enum $name { $($variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What it means, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// The one with this word.
            pub fn of_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// What sort of thing happened.
    EventKind {
        ServerJoined => "server_joined", "a storage server announced itself for the first time";
        ServerLive => "server_live", "a storage server answers";
        ServerSuspect => "server_suspect", "a storage server missed a check";
        ServerDown => "server_down", "a storage server has missed checks for long";
        ServerTrouble => "server_trouble", "a storage server answers and cannot keep files";
        ServerWell => "server_well", "it can keep files again";
        ServerSynced => "server_synced", "the inventory of a server that came back was compared";
        ServerTwin => "server_twin", "two processes are one storage server";
        ServerOlderCopy => "server_older_copy", "a server came back with an older copy of its directory";
        ServerMoved => "server_moved", "a server came back from another place";
        ServerNewIdentity => "server_new_identity", "a server began with an empty directory where another one is known";
        ServerDraining => "server_draining", "a person began to drain a server";
        ServerDrained => "server_drained", "nothing needs a draining server any more";
        ServerInService => "server_in_service", "a person put a server back into service";
        ServerRemoved => "server_removed", "a person removed a server";
        RemovedServerReturned => "removed_server_returned", "a removed server announced itself and was refused";
        ServerReadmitted => "server_readmitted", "a person let a removed server come back";
        ScrubAlarm => "scrub_alarm", "a server no longer trusts its disk or its memory";
        ReplicaCopied => "replica_copied", "a new copy was made";
        ReplicaTrimmed => "replica_trimmed", "a copy was given up; its deletion follows";
        ReplicaDeleted => "replica_deleted", "a copy was deleted, and why";
        ReplicaAdopted => "replica_adopted", "a server came back with a copy, which is counted again";
        ReplicaOutdated => "replica_outdated", "a server came back with a copy that nobody wants any more";
        ReplicaMissing => "replica_missing", "a server has lost a copy";
        ReplicaQuarantined => "replica_quarantined", "a copy was put aside";
        ReplicaCorrupt => "replica_corrupt", "a copy's bytes are wrong or gone; others are left";
        LastCopyCorrupt => "last_copy_corrupt", "the last copy's bytes are wrong or gone";
        JournalCorrupt => "journal_corrupt", "a file of the journal's copy on a server was damaged, and is sent anew";
        CopiesWanted => "copies_wanted", "a person set how many copies are wanted (setrep)";
        TokenCreated => "token_created", "a token was made";
        TokenRevoked => "token_revoked", "a token was revoked";
        FsckRepaired => "fsck_repaired", "fsck --repair put something right";
        RebalanceStarted => "rebalance_started", "a person began to fill servers evenly (rebalance)";
        RebalanceEnded => "rebalance_ended", "servers are filled evenly, as far as they can be, or a person stopped it";
        CountsMended => "counts_mended", "the numbers of the report differed from the rows, and were put right";
        LeaseTaken => "lease_taken", "another name server acts";
        JournalHolderSetAside => "journal_holder_set_aside", "a server fails to take the journal's copies";
        ReadOnly => "read_only", "the cluster stopped taking changes";
        RestoreStarted => "restore_started", "a restore of the metadata began";
        RestoreFailed => "restore_failed", "a restore failed";
        RestoreAborted => "restore_aborted", "a restore was given up by a person";
        Restored => "restored", "the metadata was restored";
        ChangesLost => "changes_lost", "changes that a restore could not bring back";
        RestoreNote => "restore_note", "something that a restore found";
        FileWritten => "file_written", "a file was written where there was none";
        FileReplaced => "file_replaced", "a file was given new content";
        FileRemoved => "file_removed", "a file was removed";
        DirectoryMade => "directory_made", "a directory was made";
        DirectoryRemoved => "directory_removed", "a directory was removed, with all that was in it";
        Moved => "moved", "a file or directory was moved";
        Copied => "copied", "a file or directory was copied";
        Touched => "touched", "a file's time was renewed";
    }
}

impl EventKind {
    /// The kind that a person asks for.
    pub fn asked(word: &str) -> Result<Self> {
        let all = || Self::ALL.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(", ");
        Self::of_word(word)
            .ok_or_else(|| Error::invalid(format!("there are no events of the kind {word:?}; the kinds are {}", all())))
    }

    /// Whether it is a change of the namespace, which is kept as long as the journal and apart from the events.
    pub fn is_change(self) -> bool {
        use EventKind::*;
        matches!(
            self,
            FileWritten | FileReplaced | FileRemoved | DirectoryMade | DirectoryRemoved | Moved | Copied | Touched
        )
    }
}

words! {
    /// Why a copy was made or deleted. It is decided once and travels with the copy: with a transfer, or with the order
    /// to delete.
    CauseWord {
        Down => "down", "its other server went down";
        Draining => "draining", "its server is draining";
        Short => "short", "there were fewer copies than wanted";
        Spread => "spread", "the copies are spread better over hosts and zones";
        Rebalanced => "rebalanced", "servers are filled more evenly";
        Surplus => "surplus", "there were more copies than wanted";
        Removed => "removed", "the last file with these bytes was removed";
        Replaced => "replaced", "the file was given new content";
        ServerRemoved => "server_removed", "its server was removed by a person";
        Returned => "returned", "its server came back";
        Outdated => "outdated", "it was outdated when its server came back";
        CopyFailed => "copy_failed", "its transfer failed or was interrupted";
        UploadFailed => "upload_failed", "its upload was never committed";
        Unreferenced => "unreferenced", "no file referred to it (fsck --repair)";
        Corrupt => "corrupt", "its bytes were wrong or gone";
        Unknown => "unknown", "the reason was not written down: the deletion was ordered by an older version";
    }
}

/// Why, and because of which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// Why.
    pub word: CauseWord,
    /// The server that it is about, if it is about one.
    pub server: Option<ServerId>,
}

impl From<CauseWord> for Cause {
    fn from(word: CauseWord) -> Self {
        Self { word, server: None }
    }
}

impl CauseWord {
    /// With the server that it is about.
    pub fn of(self, server: ServerId) -> Cause {
        Cause { word: self, server: Some(server) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_one_thing() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of_word(kind.word()), Some(*kind));
        }
        for cause in CauseWord::ALL {
            assert_eq!(CauseWord::of_word(cause.word()), Some(*cause));
        }
        let refused = EventKind::asked("nosuch").unwrap_err();
        assert!(refused.message().contains("server_down") && refused.message().contains("nosuch"), "{refused}");
    }

    #[test]
    fn the_documents_list_every_kind_and_no_other() {
        let text = include_str!("../../docs/operations.md");
        let (_, rest) = text.split_once("<!-- kinds of events -->").expect("the list begins");
        let (list, _) = rest.split_once("<!-- end -->").expect("the list ends");
        let row = |line: &str| {
            Some(line.strip_prefix("| `")?.split_once("` | ")?)
                .map(|(a, b)| (a.to_string(), b.trim_end_matches(" |").to_string()))
        };
        let documented: Vec<_> = list.lines().filter_map(row).collect();
        let known: Vec<_> =
            EventKind::ALL.iter().map(|kind| (kind.word().to_string(), kind.meaning().to_string())).collect();
        assert_eq!(documented, known);
    }
}
