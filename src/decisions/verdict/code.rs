//! The codes of troubles: what monitors decide by. They stay as they are; `docs/operations.md` has a line about each.

/// Makes the codes and the list of all.
macro_rules! codes {
    ($($name:ident $word:literal $about:literal)*) => {
        /// What sort of trouble it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $about] $name,)*
        }

        impl Code {
            /// All there are.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// As it travels, and as people read it.
            pub fn word(self) -> &'static str {
                match self {
                    $(Code::$name => $word,)*
                }
            }
        }
    };
}

codes! {
    DatabaseUnreachable "database_unreachable" "The database does not answer."
    DatabaseDamaged "database_damaged" "The database is damaged; nothing is changed until it is restored."
    DatabaseSetBack "database_set_back" "The storage servers know of changes that the database has forgotten."
    DatabaseFull "database_full" "The database has no room left."
    DatabaseDiskLow "database_disk_low" "The name server's disk is nearly full."
    WaitsForRestore "waits_for_restore" "There is no metadata to serve; it is to be brought back."
    Restoring "restoring" "A restore is under way."
    ForeignServers "foreign_servers" "This cluster is empty, and servers with the files of another one ask to be taken."
    ReadOnly "read_only" "Writes are refused for another reason."
    WritesRefused "writes_refused" "Too few storage servers take files."
    StorageFull "storage_full" "Enough storage servers take files, and too few have room."
    Unreadable "unreadable" "No server that answers has a copy."
    Lost "lost" "No copy is left anywhere."
    SingleCopy "single_copy" "One copy is left of several wanted."
    ShortOfCopies "short_of_copies" "Copies are missing, and more than one is left."
    RepairPaused "repair_paused" "Too many servers are down at once for repair to begin."
    RepairStuck "repair_stuck" "The repair of some objects fails again and again."
    NotCounted "not_counted" "The copies could not be counted."
    CountsMended "counts_mended" "The numbers of the report were wrong until lately, and have been put right."
    NobodyActs "nobody_acts" "No name server holds the lease: nothing is repaired or deleted."
    NameServerAway "name_server_away" "One of several name servers does not answer, or does not reach the database."
    ActorFails "actor_fails" "The passes of an actor fail again and again."
    JournalBehind "journal_behind" "Changes are in the database only."
    DeletionsWait "deletions_wait" "Many deletions are due, or old ones."
    ServerDown "server_down" "A storage server does not answer."
    ServerSuspect "server_suspect" "A storage server missed its last check."
    ServerSyncing "server_syncing" "A storage server is back, and its inventory is being compared."
    ServerFlaps "server_flaps" "A storage server comes and goes."
    ServerRestarts "server_restarts" "A storage server is started again and again."
    ServerSlow "server_slow" "A storage server takes long to answer."
    ServerRefused "server_refused" "A storage server announces itself and is not taken."
    SecretRefused "secret_refused" "Somebody announces a storage server with another secret."
    ClocksApart "clocks_apart" "A server's clock is wrong."
    CertificateEnds "certificate_ends" "A TLS certificate ends soon, or its successor cannot be used."
    DiskNotTrusted "disk_not_trusted" "A storage server found so many corrupt copies at once that it trusts its disk no more."
    DiskCorrupts "disk_corrupts" "Many copies on one server were corrupt since yesterday."
    CorruptCopies "corrupt_copies" "Copies were found corrupt since yesterday, and are replaced."
    DiskReadOnly "disk_read_only" "A storage server's disk takes no more writes."
    DiskFails "disk_fails" "A storage server's disk answers with errors, or not at all."
    CannotKeep "cannot_keep" "A storage server cannot keep new files for another reason."
    DiskFull "disk_full" "A storage server has no room for new files."
    DiskFills "disk_fills" "A storage server's disk is full by a date that is near."
    DrainStuck "drain_stuck" "A drain cannot go on."
    Draining "draining" "A drain goes on."
    Rebalancing "rebalancing" "Servers are filled evenly."
}
