# Ruby's pg: a statement that stays prepared, parameters without one, a transaction, COPY.
# usage: ruby ruby_pg.rb ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
require 'pg'

$stdout.sync = true
id = ARGV[0].to_i
stop = ARGV[1]
ADD = "WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = $1::int RETURNING id, n)
  INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
  RETURNING n, port"

# No connection parameter: PGHOST and the rest.
conn = PG.connect
conn.exec("SET app.driver = 'ruby_pg'")
conn.prepare('add', ADD)
turn = 0
until File.exist?(stop)
  case turn % 3
  when 0
    done = conn.exec_prepared('add', [id]).values[0]
  when 1
    done = conn.exec_params(ADD, [id]).values[0]
  else
    conn.transaction do
      n = conn.exec("UPDATE ledger SET n = n + 1 WHERE id = #{id} RETURNING n").getvalue(0, 0)
      port, setting = conn.exec("SELECT inet_server_port(), current_setting('app.driver')").values[0]
      conn.copy_data('COPY entries FROM STDIN') do
        conn.put_copy_data([id, n, port, setting].join("\t") + "\n")
      end
      done = [n, port]
    end
  end
  puts "ack #{done[0]} #{done[1]}"
  turn += 1
  sleep 0.01
end
conn.close
puts 'done'
