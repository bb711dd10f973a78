DROP SCHEMA admin CASCADE;
DROP TABLE events, tokens, leases, journal, outbox, repair_queue, replicas, building, entries, objects,
           server_health, servers, cluster;
