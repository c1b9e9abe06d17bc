<?php
// PHP's PDO: statements that it prepares by the protocol and drops by SQL's DEALLOCATE, one that
// stays, emulated ones (simple queries), transactions.
// usage: php pdo.php ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
const ADD = "WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = ? RETURNING id, n)
	INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
	RETURNING n, port";

function one(PDOStatement $statement, int $id): string
{
	$statement->bindValue(1, $id, PDO::PARAM_INT);
	$statement->execute();
	$row = $statement->fetch(PDO::FETCH_NUM);
	$statement->closeCursor();
	return "$row[0] $row[1]";
}

$id = (int) $argv[1];
$stop = $argv[2];
$source = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
$pdo = new PDO($source, getenv('PGUSER'), getenv('PGPASSWORD'), [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$pdo->exec("SET app.driver = 'pdo'");
$kept = $pdo->prepare(ADD);
for ($turn = 0; !file_exists($stop); $turn++) {
	clearstatcache();
	if ($turn % 3 == 0) {
		$done = one($kept, $id);
	} elseif ($turn % 3 == 1) {
		$done = one($pdo->prepare(ADD, [PDO::ATTR_EMULATE_PREPARES => true]), $id);
	} else {
		$pdo->beginTransaction();
		$done = one($pdo->prepare(ADD), $id);
		$pdo->commit();
	}
	echo "ack $done\n";
	usleep(10000);
}
echo "done\n";
