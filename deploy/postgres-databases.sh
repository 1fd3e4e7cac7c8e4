#!/bin/sh
# Makes one database for each variable <SERVICE>_DATABASE_PASSWORD, owned by a user who may enter no other.
# The image of PostgreSQL runs this once, as its superuser, when the data folder is new.
set -eu

for variable in $(awk 'BEGIN { for (name in ENVIRON) if (name ~ /^[A-Z0-9_]+_DATABASE_PASSWORD$/) print name }'); do
    service=$(echo "${variable%_DATABASE_PASSWORD}" | tr '[:upper:]' '[:lower:]')
    eval "password=\${$variable:?is empty}"
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
        --set=service="$service" --set=password="$password" <<'SQL'
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
SQL
done
