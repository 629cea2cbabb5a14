-- The tables that presence.cfg needs, from Debian's kamailio-mysql-modules:
--   mysql kamailio </usr/share/kemi-nsq/sql/mysql.sql
SOURCE /usr/share/kamailio/mysql/standard-create.sql;
SOURCE /usr/share/kamailio/mysql/auth_db-create.sql;
SOURCE /usr/share/kamailio/mysql/presence-create.sql;
