#!/usr/bin/env bash
# What deploy/prometheus and deploy/grafana say is so: rules and dashboards ask for nothing that a node, or the balancer, does not
# export, every alert has a case in which it fires and one in which it does not, and a service that is well raises none.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${DUET_BIN:-target/release/duet}
# Not a setting of the server.
unset DUET_BIN
for tool in promtool prometheus jq redis-server haproxy curl; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install prometheus jq redis-server haproxy curl"; exit 1; }
done
[ -x "$binary" ] || { echo "$binary is missing: cargo build --release"; exit 1; }
rules=deploy/prometheus/rules tests=deploy/prometheus/tests dashboards=(deploy/grafana/dashboards/*.json)
fail() { echo "$*" >&2; exit 1; }

directory=$(mktemp -d)
pids=()
end() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$directory"
}
trap end EXIT
trap 'exit 1' INT TERM

quietly() { "$@" >"$directory/log" 2>&1 || { cat "$directory/log" >&2; fail "failed: $*"; }; }
quietly promtool check config deploy/prometheus/prometheus.yml
quietly promtool check rules "$rules"/*.yml
quietly promtool test rules "$tests"/*.yml
echo "promtool: configuration, rules and their tests"

# Of each dashboard: its place in the links, and panels that do not lie over each other.
for file in "${dashboards[@]}"; do
  jq -e '
    def ids: [.panels[].id];
    def overlap($a; $b): $a.x < $b.x + $b.w and $b.x < $a.x + $a.w and $a.y < $b.y + $b.h and $b.y < $a.y + $a.h;
    def must($what; ok): if ok then . else error($what) end;
    must("uid, title or schemaVersion"; .uid and .title and .schemaVersion >= 39)
    | must("the ids of panels are not unique"; (ids | length) == (ids | unique | length))
    | must("a variable `datasource`"; .templating.list[0] | .name == "datasource" and .type == "datasource")
    | must("a data source other than that variable"; all(.. | objects | .datasource? // empty; .uid == "${datasource}"))
    | must("a panel without title or place"; all(.panels[]; .title != "" and .gridPos.x + .gridPos.w <= 24))
    | must("a panel without a query"; all(.panels[] | select(.type != "row"); any(.targets[]; .expr != "")))
    | must("a graph without a unit"; all(.panels[] | select(.type | IN("stat", "timeseries")); .fieldConfig.defaults.unit))
    | must("a curve without a legend"; all(.panels[] | select(.type == "timeseries") | .targets[]; .legendFormat))
    | [.panels[].gridPos] as $places
    | must("panels over each other"; [range($places | length) as $i | range($i) as $j | overlap($places[$i]; $places[$j])] | any | not)
  ' "$file" >/dev/null || fail "$file"
done
twice=$(jq -r .uid "${dashboards[@]}" | sort | uniq -d)
[ -z "$twice" ] || fail "two dashboards are called $twice"
echo "Grafana: ${#dashboards[@]} dashboards in form"

# A node with Redis, the balancer, and Prometheus with the very rules, all on ports that nobody listens on, below those that the
# kernel gives to clients.
base=$((20000 + $$ % 1000 * 10))
until ! (for port in $(seq "$base" $((base + 9))); do (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null && exit 0; done; exit 1); do
  base=$((base + 10))
done
redis=$base public=$((base + 1)) admin=$((base + 2)) front=$((base + 3)) stats=$((base + 4)) prometheus=$((base + 5))
logs=()
start() {
  local name=$1
  shift
  "$@" >"$directory/$name.log" 2>&1 &
  pids+=($!)
  logs+=("$directory/$name.log")
}
# Waits at most 30 s.
until_true() {
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 20 "${logs[@]}" >&2; fail "not within 30 s: $what"; }
    sleep 0.1
  done
}
start redis redis-server --bind 127.0.0.1 --port "$redis" --save "" --appendonly no --dir "$directory"
start node env DUET_SERVER__LISTEN="127.0.0.1:$public" DUET_ADMIN__LISTEN="127.0.0.1:$admin" \
  DUET_REDIS__URL="redis://127.0.0.1:$redis" DUET_CLUSTER__LEASE=3s DUET_CLUSTER__RENEW=500ms "$binary"
# The balancer's own configuration, with this node instead of those that the DNS names.
sed "s/^    server-template .*/    server node1 127.0.0.1:$public/" deploy/balancer/haproxy.cfg >"$directory/haproxy.cfg"
start balancer env DUET_BIND="127.0.0.1:$front" DUET_STATS="127.0.0.1:$stats" DUET_ADMIN_PORT="$admin" \
  haproxy -db -f "$directory/haproxy.cfg"
# Prometheus' own, likewise, and ten times as fast.
sed -e 's/^  \(scrape_interval\|scrape_timeout\|evaluation_interval\): .*/  \1: 500ms/' \
  -e "s|^  - rules/|  - $PWD/$rules/|" \
  -e "/^    dns_sd_configs:/,/refresh_interval:/c\\    static_configs: [{targets: [\"127.0.0.1:$admin\"]}]" \
  -e "s/balancer:8405/127.0.0.1:$stats/" deploy/prometheus/prometheus.yml >"$directory/prometheus.yml"
start prometheus prometheus --config.file="$directory/prometheus.yml" --storage.tsdb.path="$directory/tsdb" \
  --web.listen-address="127.0.0.1:$prometheus"

api="http://127.0.0.1:$prometheus/api/v1"
# Everything is asked as of one moment, so that it does not matter how long the asking takes; before that, as of now.
moment=
ask() { curl -s --data-urlencode "query=$1" ${moment:+--data-urlencode "time=$moment"} "$api/query"; }
# Whether a query has a result.
has() { ask "$1" | jq -e '.status == "success" and (.data.result | length > 0)'; }
until_true "the node is ready" curl -sf "http://127.0.0.1:$admin/readyz"
until_true "the balancer sees it" curl -sf "http://127.0.0.1:$stats/healthz"
until_true "Prometheus reads both" has 'count(count_over_time(up[1m]) >= 3 and up == 1) == 2'

# Some counters begin when there is something to count: two peers meet, talk, and one says what nobody knows.
site="http://127.0.0.1:$front/socket.io/?EIO=4&transport=polling"
say() { curl -sf -H 'Content-Type: text/plain;charset=UTF-8' --data-binary "$2" "$site&sid=$1" >/dev/null || fail "not taken: $2"; }
for peer in 1 2; do
  sid=$(curl -sf "$site" | sed -n 's/.*"sid":"\([^"]*\)".*/\1/p')
  [ -n "$sid" ] || fail "no session: the balancer, or the node, does not answer"
  say "$sid" 40
  say "$sid" '42["create or join","monitoring"]'
  say "$sid" '42["message","hello"]'
done
say "$sid" '42["no such event"]'
until_true "what they did is counted" has '
  duet:seats:sum == 2 and sum(rate(duet_refusals_total[1m])) and sum(rate(duet_sockets_opened_total[1m]))
  and duet:joins_unavailable:ratio_rate30s and duet:relays_unavailable:ratio_rate1m and duet:relays_too_slow:ratio_rate5m'
moment=$(date +%s.%N)

# Every rule works, and every recorded series has somebody who reads it.
curl -s "$api/rules" >"$directory/rules.json"
jq -r '.data.groups[].rules[] | select(.health != "ok") | "\(.name): \(.health) \(.lastError // "")"' "$directory/rules.json" >"$directory/ill"
[ ! -s "$directory/ill" ] || fail "rules that do not work: $(cat "$directory/ill")"
jq -r '.data.groups[].rules[].query' "$directory/rules.json" >"$directory/rule-queries"
# As they are asked when all nodes are looked at.
jq -r '.. | objects | (.expr? // empty), (.definition? // empty | sub("^label_values\\((?<selector>.*), *[a-z]+\\)$"; .selector))' "${dashboards[@]}" |
  sed -e 's/\$__rate_interval/1m/g' -e 's/\$node/.+/g' >"$directory/dashboard-queries"
! grep -n '\$' "$directory/dashboard-queries" || fail "a variable that this script does not know"
cat "$directory"/{rule,dashboard}-queries >"$directory/queries"
for record in $(jq -r '.data.groups[].rules[] | select(.type == "recording").name' "$directory/rules.json"); do
  grep -qF "$record" "$directory/queries" || fail "$record: nobody reads it"
done

# Every selector of rules and dashboards selects something, so each name and each label is one that exists.
grep -oE '\b((duet|haproxy|process)_[a-z0-9_]+|up|[a-z_]+:[a-z0-9_:]+)\b(\{[^}]*\})?' "$directory/queries" | sort -u >"$directory/selectors"
while read -r selector; do
  has "$selector" >/dev/null || fail "nothing exports $selector"
done <"$directory/selectors"
# Every query of a dashboard shows something; but for alerts, of which none fires.
while read -r query; do
  ask "$query" | jq -r '.error // empty' | grep . >&2 && fail "not a query: $query"
  case $query in ALERTS*) ;; *) has "$query" >/dev/null || fail "shows nothing: $query" ;; esac
done <"$directory/dashboard-queries"
echo "a live node and balancer: $(wc -l <"$directory/selectors") selectors, $(wc -l <"$directory/dashboard-queries") queries of dashboards"

firing=$(curl -s "$api/alerts" | jq -r '.data.alerts[] | select(.state == "firing").labels.alertname')
[ -z "$firing" ] || fail "all is well, and yet there fires: $firing"

# Every alert says how bad it is, what it is, and what shows it.
jq -r '.data.groups[].rules[] | select(.type == "alerting") | [
    .name, .labels.severity // "-", .annotations.drill // "-",
    if (.annotations.summary // "") == "" or (.annotations.description // "") == "" then "-" else "told" end
  ] | @tsv' "$directory/rules.json" >"$directory/alerts"
while IFS=$'\t' read -r name severity drill told; do
  case $severity in page | ticket) ;; *) fail "$name: severity $severity, neither page nor ticket" ;; esac
  [ "$told" = told ] || fail "$name: no summary, or no description"
  case $drill in
    deploy/drills/*.sh) ;;
    "$tests"/*.yml) grep -q "alertname: $name\$" "$drill" || fail "$name: $drill does not show it" ;;
    *) fail "$name: drill $drill, neither a script of deploy/drills nor a test" ;;
  esac
  [ -f "$drill" ] || fail "$name: there is no $drill"
done <"$directory/alerts"
cut -f1 "$directory/alerts" | sort >"$directory/names"
twice=$(uniq -d "$directory/names")
[ -z "$twice" ] || fail "two alerts are called $twice"

# A case about an alert that there is not would never fail.
grep -ohE 'alertname: \w+' "$tests"/*.yml | sed 's/.* //' | sort -u >"$directory/tested"
unknown=$(comm -13 "$directory/names" "$directory/tested")
[ -z "$unknown" ] || fail "tests name alerts that there are not: $unknown"

# Every alert has a test in which it fires and one in which it does not: with alerts made wrong, tests fail for each of them.
#   mute    no alert ever fires: every one has to be missed
#   alarm   every alert fires always: every one has to be found unexpected
#   hasty   no alert waits: every one that should wait has to be found too early
mutate() {
  rm -rf "$directory/mutant"
  cp -r deploy/prometheus "$directory/mutant"
  jq "{groups: [.data.groups[] | select(.file | endswith(\"/alerts.yml\")) | {name, rules: [.rules[] | {alert: .name, labels, annotations, expr: $1}]}]}" \
    "$directory/rules.json" >"$directory/mutant/rules/alerts.yml"
  quietly promtool check rules "$directory/mutant/rules/alerts.yml"
  # Fails, as it should. Prints the alerts of the cases that expect something ($2: fires) or nothing (quiet).
  promtool test rules "$directory"/mutant/tests/*.yml 2>&1 | awk -v want="$2" '
    /^ *alertname: / { name = $2; sub(/,$/, "", name) }
    /^ *exp:\[\]/ { if (want == "quiet") print name; next }
    /^ *exp:\[/ { if (want == "fires") print name }
  ' | sort -u || true
}
lacking() { comm -23 "$1" "$2" | paste -sd ' '; }
mutate '"vector(1) > 2"' fires >"$directory/found"
missed=$(lacking "$directory/names" "$directory/found")
[ -z "$missed" ] || fail "no test in which they fire: $missed"
mutate '"vector(1)"' quiet >"$directory/found"
missed=$(lacking "$directory/names" "$directory/found")
[ -z "$missed" ] || fail "no test in which they do not fire: $missed"
mutate .query quiet >"$directory/found"
jq -r '.data.groups[].rules[] | select(.type == "alerting" and .duration > 0).name' "$directory/rules.json" | sort >"$directory/waiting"
missed=$(lacking "$directory/waiting" "$directory/found")
[ -z "$missed" ] || fail "no test in which they do not fire yet: $missed"
echo "alerts: $(wc -l <"$directory/names"), each with severity, summary, drill, a test that fires and one that does not"
