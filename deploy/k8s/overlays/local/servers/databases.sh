# Run once, by the entrypoint of an empty PostgreSQL: five databases, each with the role that owns its schema and the
# one that works with its rows. The same as deploy/local/postgres.py makes for `make run`.
set -e  # not -u: the entrypoint reads this file into itself
secrets=${SAGACITY_SECRETS:-/run/secrets/postgresql}
for name in users inventory payments orders sagas; do
  psql --no-psqlrc --username "${POSTGRES_USER:-postgres}" --set ON_ERROR_STOP=1 --dbname postgres \
    --set name="$name" --set owner="${name}_owner" --set service="${name}_service" \
    --set owner_password="$(cat "$secrets/${name}_owner-password")" \
    --set service_password="$(cat "$secrets/${name}_service-password")" <<'SQL'
CREATE ROLE :"owner" LOGIN PASSWORD :'owner_password';
CREATE ROLE :"service" LOGIN PASSWORD :'service_password';
CREATE DATABASE :"name" OWNER :"owner";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"name" TO :"service";
\connect :"name"
SET ROLE :"owner";
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"service";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"service";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO :"service";
SQL
done
