-- Run once, by the entrypoint of an empty database: who owns the schema, and who works with its rows. All of it or
-- nothing: the health check asks for the role of the service, and takes the rest for granted.
-- The same as deploy/local/postgres.py makes for `make run`.
\set ON_ERROR_STOP on
\getenv name POSTGRES_DB
\set owner :name '_owner'
\set service :name '_service'
\set owner_password `cat "/run/secrets/${POSTGRES_DB}_owner-password"`
\set service_password `cat "/run/secrets/${POSTGRES_DB}_service-password"`

BEGIN;
CREATE ROLE :"owner" LOGIN PASSWORD :'owner_password';
CREATE ROLE :"service" LOGIN PASSWORD :'service_password';
ALTER DATABASE :"name" OWNER TO :"owner";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"name" TO :"service";

SET ROLE :"owner";
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"service";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"service";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO :"service";
COMMIT;
