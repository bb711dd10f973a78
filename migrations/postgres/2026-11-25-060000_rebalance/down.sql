DROP TABLE moves;
DROP TABLE rebalances;
