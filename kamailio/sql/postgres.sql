-- The tables that presence.cfg needs, from Debian's kamailio-postgres-modules:
--   psql kamailio </usr/share/kemi-nsq/sql/postgres.sql
\i /usr/share/kamailio/postgres/standard-create.sql
\i /usr/share/kamailio/postgres/auth_db-create.sql
\i /usr/share/kamailio/postgres/presence-create.sql
