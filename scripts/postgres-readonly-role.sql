-- Makes (or brings up to date) a role that may look at a Holdfast cluster and change nothing.
--
--   psql postgres://OWNER@HOST/DATABASE -v role=holdfast_reader -v password=SECRET \
--        -f scripts/postgres-readonly-role.sql
--
-- Run it as the owner of the Holdfast tables, who must be allowed to create roles, or as a superuser. It can
-- be run again, for a new password or after an upgrade that brought new views.
--
-- The role gets SELECT on the views of the schema admin and on nothing else. A view reads its tables with its
-- owner's rights, so no table has to be granted: the tokens' hashes, the journal (which has them too) and the
-- cluster row stay out of reach.

\set ON_ERROR_STOP on

\if :{?role}
\else
    \echo 'The name of the role is missing: add -v role=holdfast_reader'
    \quit
\endif
\if :{?password}
\else
    \echo 'The password is missing: add -v password=...'
    \quit
\endif

BEGIN;

-- A role of this name that has more rights than to log in is somebody else's: it is not touched.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') AS role_exists,
       EXISTS (SELECT FROM pg_roles WHERE rolname = :'role'
               AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)) AS role_is_powerful
\gset
\if :role_is_powerful
    \echo 'The role' :'role' 'exists and has other rights; choose another name'
    ROLLBACK;
    \quit
\endif
\if :role_exists
\else
    CREATE ROLE :"role";
\endif
ALTER ROLE :"role" LOGIN NOCREATEDB NOCREATEROLE NOINHERIT CONNECTION LIMIT 5 PASSWORD :'password';

-- A person's query must not hold back the cluster for long.
ALTER ROLE :"role" SET default_transaction_read_only = on;
ALTER ROLE :"role" SET statement_timeout = '30s';
ALTER ROLE :"role" SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE :"role" SET search_path = admin;

SELECT current_database() AS database \gset
GRANT CONNECT ON DATABASE :"database" TO :"role";

-- Whatever it may have been granted before, and then the views alone.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM :"role";
REVOKE CREATE ON SCHEMA public FROM :"role";
GRANT USAGE ON SCHEMA admin TO :"role";
GRANT SELECT ON ALL TABLES IN SCHEMA admin TO :"role";

-- Views that later versions add. The views belong to the tables' owner, who makes them in a migration.
SELECT tableowner AS owner FROM pg_tables WHERE schemaname = 'public' AND tablename = 'cluster' \gset
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA admin GRANT SELECT ON TABLES TO :"role";

COMMIT;

\echo 'The role' :'role' 'may read the views of the schema admin.'
