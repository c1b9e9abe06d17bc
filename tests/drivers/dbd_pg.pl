# DBD::Pg: a statement that stays prepared, and one in each transaction that the driver prepares
# through the protocol and drops by SQL's DEALLOCATE.
# usage: perl dbd_pg.pl ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
use strict;
use warnings;
use DBI;

$| = 1;
my ($id, $stop) = @ARGV;
my $add = "WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = ? RETURNING id, n)
	INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
	RETURNING n, port";

# No host, no database: PGHOST and the rest.
my $dbh = DBI->connect("dbi:Pg:", $ENV{PGUSER}, $ENV{PGPASSWORD},
	{ RaiseError => 1, PrintError => 0, AutoCommit => 1 });
$dbh->do("SET app.driver = 'dbd_pg'");
my $kept = $dbh->prepare($add);

sub one {
	my ($sth) = @_;
	$sth->execute($id);
	my @row = $sth->fetchrow_array;
	$sth->finish;
	return "$row[0] $row[1]";
}

for (my $turn = 0; !-e $stop; $turn++) {
	my $done;
	if ($turn % 2 == 0) {
		$done = one($kept);
	} else {
		$dbh->begin_work;
		$done = one(scalar $dbh->prepare($add));
		$dbh->commit;
	}
	print "ack $done\n";
	select(undef, undef, undef, 0.01);
}
$dbh->disconnect;
print "done\n";
