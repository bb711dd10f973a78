//! The tables, as diesel sees them on both backends. `tests/db/schema.rs` compares this with real databases.
#![allow(missing_docs, reason = "the migrations comment each table and column")]

diesel::table! {
    cluster (id) {
        id -> SmallInt,
        cluster_id -> Text,
        history_id -> Text,
        epoch -> BigInt,
        mode -> Text,
        mode_reason -> Nullable<Text>,
        last_version -> BigInt,
        tip -> Binary,
        clock_floor -> Timestamp,
        created -> Timestamp,
        journal_copied -> BigInt,
    }
}

diesel::table! {
    servers (id) {
        id -> BigInt,
        identity -> Text,
        name -> Text,
        host -> Text,
        url -> Text,
        public_url -> Text,
        zone -> Text,
        admin_state -> Text,
        registered -> Timestamp,
    }
}

diesel::table! {
    server_health (server) {
        server -> BigInt,
        health -> Text,
        since -> Timestamp,
        reason -> Nullable<Text>,
        boot_id -> Text,
        capacity_bytes -> BigInt,
        free_bytes -> BigInt,
        last_seen -> Nullable<Timestamp>,
        synced_boot -> Text,
        scrub_alarm -> Bool,
        index_changes -> BigInt,
        trouble -> Nullable<Text>,
        troubled -> Nullable<Timestamp>,
        stored_bytes -> BigInt,
        scrubbed -> Nullable<Timestamp>,
        clock_ahead_ms -> BigInt,
        answer_ms -> BigInt,
        fill_since -> Nullable<Timestamp>,
        fill_free_bytes -> BigInt,
        fill_bytes_per_day -> BigInt,
    }
}

diesel::table! {
    objects (id) {
        id -> BigInt,
        state -> Text,
        size -> BigInt,
        sha256 -> Binary,
        copies_wanted -> Integer,
        label -> Text,
        version -> BigInt,
        created -> Timestamp,
        forget_after -> Nullable<Timestamp>,
    }
}

diesel::table! {
    entries (id) {
        id -> BigInt,
        parent -> Nullable<BigInt>,
        name -> Text,
        kind -> Text,
        object -> Nullable<BigInt>,
        replication -> Nullable<Integer>,
        version -> BigInt,
        created -> Timestamp,
        modified -> Timestamp,
    }
}

diesel::table! {
    building (entry) {
        entry -> BigInt,
        deadline -> Timestamp,
    }
}

diesel::table! {
    replicas (object, server) {
        object -> BigInt,
        server -> BigInt,
        generation -> BigInt,
        state -> Text,
        created -> Timestamp,
        verified -> Nullable<Timestamp>,
    }
}

diesel::table! {
    repair_queue (object) {
        object -> BigInt,
        copies -> Integer,
        queued -> Timestamp,
        next_attempt -> Timestamp,
        attempts -> Integer,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    outbox (server, object, generation) {
        server -> BigInt,
        object -> BigInt,
        generation -> BigInt,
        version -> BigInt,
        queued -> Timestamp,
        not_before -> Timestamp,
        reason -> Text,
        by_token -> Nullable<Text>,
    }
}

diesel::table! {
    journal (version, seq) {
        version -> BigInt,
        seq -> Integer,
        table_name -> Text,
        row_key -> Text,
        content -> Nullable<Text>,
        tip -> Binary,
        created -> Timestamp,
    }
}

diesel::table! {
    leases (name) {
        name -> Text,
        holder -> Text,
        term -> BigInt,
        expires -> Timestamp,
    }
}

diesel::table! {
    tokens (name) {
        name -> Text,
        sha256 -> Binary,
        role -> Text,
        prefix -> Nullable<Text>,
        created -> Timestamp,
        expires -> Nullable<Timestamp>,
    }
}

diesel::table! {
    events (id) {
        id -> BigInt,
        time -> Timestamp,
        kind -> Text,
        object -> Nullable<BigInt>,
        server -> Nullable<BigInt>,
        detail -> Text,
        path -> Nullable<Text>,
        by_token -> Nullable<Text>,
        cause -> Nullable<Text>,
        cause_server -> Nullable<BigInt>,
        part_of -> Nullable<BigInt>,
        copies -> Nullable<BigInt>,
        until -> Nullable<Timestamp>,
    }
}

diesel::table! {
    audit (id) {
        id -> BigInt,
        version -> BigInt,
        time -> Timestamp,
        kind -> Text,
        path -> Text,
        other_path -> Nullable<Text>,
        by_token -> Nullable<Text>,
    }
}

diesel::table! {
    removed_servers (id) {
        id -> BigInt,
        name -> Text,
        url -> Text,
        removed -> Timestamp,
        by_token -> Nullable<Text>,
    }
}

diesel::table! {
    restores (id) {
        id -> BigInt,
        started -> Timestamp,
        ended -> Nullable<Timestamp>,
        report -> Text,
    }
}

diesel::table! {
    tallies (name) {
        name -> Text,
        up_to -> BigInt,
    }
}

diesel::table! {
    counts (tally, what, servers, copies_wanted, part) {
        tally -> Text,
        what -> Text,
        servers -> Text,
        copies_wanted -> Integer,
        part -> Integer,
        objects -> BigInt,
        bytes -> BigInt,
    }
}

diesel::table! {
    rebalances (id) {
        id -> BigInt,
        state -> Text,
        within_percent -> Integer,
        started -> Timestamp,
        ended -> Nullable<Timestamp>,
        by_token -> Nullable<Text>,
        moved -> BigInt,
        moved_bytes -> BigInt,
        left_bytes -> Nullable<BigInt>,
        note -> Text,
    }
}

diesel::table! {
    moves (object) {
        object -> BigInt,
        server -> BigInt,
        begun -> Timestamp,
    }
}

diesel::table! {
    jobs (kind) {
        kind -> Text,
        id -> BigInt,
        holder -> Text,
        state -> Text,
        started -> Timestamp,
        beat -> Timestamp,
        ended -> Nullable<Timestamp>,
        by_token -> Nullable<Text>,
        request -> Text,
        step -> Text,
        report -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    cluster,
    servers,
    server_health,
    objects,
    entries,
    building,
    replicas,
    repair_queue,
    outbox,
    journal,
    leases,
    tokens,
    events,
    audit,
    removed_servers,
    restores,
    tallies,
    counts,
    rebalances,
    moves,
    jobs,
);
