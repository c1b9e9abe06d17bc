// PostgreSQL's JDBC driver: prepared on the server from the first execution on, autocommit and
// transactions by turns, a cursor that fetches a few rows at a time, a savepoint in front of each
// statement (by a Query behind extended messages that have no Sync yet).
// usage: java -cp postgresql.jar jdbc.java ID STOP_FILE (the protocol: tests/integration/test_drivers.c)

import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

class Jdbc {
	static final String ADD =
		"WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = ? RETURNING id, n)"
		+ " INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver')"
		+ " FROM up RETURNING n, port";

	static String one(PreparedStatement statement, int id) throws SQLException {
		statement.setInt(1, id);
		try (ResultSet row = statement.executeQuery()) {
			row.next();
			return row.getLong(1) + " " + row.getInt(2);
		}
	}

	public static void main(String[] args) throws Exception {
		int id = Integer.parseInt(args[0]);
		Path stop = Path.of(args[1]);
		Properties how = new Properties();
		how.setProperty("user", System.getenv("PGUSER"));
		how.setProperty("password", System.getenv("PGPASSWORD"));
		how.setProperty("prepareThreshold", "1");
		how.setProperty("autosave", "always");
		String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
			+ "/" + System.getenv("PGDATABASE");
		try (Connection connection = DriverManager.getConnection(url, how);
		     Statement set = connection.createStatement()) {
			set.execute("SET app.driver = 'jdbc'");
			PreparedStatement add = connection.prepareStatement(ADD);
			PreparedStatement series =
				connection.prepareStatement("SELECT i FROM generate_series(1, ?) i");
			series.setFetchSize(7);
			for (int turn = 0; !Files.exists(stop); turn++) {
				connection.setAutoCommit(turn % 2 == 0);
				String done = one(add, id);
				if (turn % 2 == 1) {
					series.setInt(1, 20);
					long sum = 0;
					try (ResultSet rows = series.executeQuery()) {
						while (rows.next())
							sum += rows.getInt(1);
					}
					if (sum != 210)
						throw new SQLException("the cursor's rows add up to " + sum);
					connection.commit();
				}
				System.out.println("ack " + done);
				Thread.sleep(10);
			}
		}
		System.out.println("done");
	}
}
