-- The tables that presence.cfg needs, from Debian's kamailio-sqlite-modules:
--   sqlite3 /var/lib/kamailio/kamailio.db </usr/share/kemi-nsq/sql/sqlite.sql
.read /usr/share/kamailio/db_sqlite/standard-create.sql
.read /usr/share/kamailio/db_sqlite/auth_db-create.sql
.read /usr/share/kamailio/db_sqlite/presence-create.sql
