# shellcheck shell=bash
# Shared by every script in dev/: messages, the state folder, processes, ports and packages.
# Sourced, never run. Linux only, because processes are recognised through /proc.
#
# Functions use `return 0`, not `return`: stopping runs in an EXIT trap, where a bare `return` returns the exit code.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
CHECKOUT=$(printf '%s' "$ROOT" | sha256sum | cut -c1-10) # tells this checkout's services from another one's
STATE=                                                   # set by find_state

say() { printf '  %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# step_down USER: "${STEP_DOWN[@]}" CMD... then runs CMD as USER. PostgreSQL refuses to run as root; RabbitMQ need not.
STEP_DOWN=()
step_down() {
  if ((EUID == 0)); then
    STEP_DOWN=(setpriv --reuid "$1" --regid "$(id -g "$1")" --clear-groups --inh-caps=-all)
  fi
}

# give_to USER PATH...: makes USER the owner of what its process must be able to write.
give_to() { ((EUID != 0)) || chown -R "$1:$(id -g "$1")" "${@:2}"; }

# --- the state folder ---------------------------------------------------------------------------------------------

# Data, logs, ports and passwords are in target/dev. If the clone is in a private home, the unprivileged users cannot reach
# that folder, and RabbitMQ's scripts do not work with a space in its path. In both cases a folder in /tmp is used.
find_state() {
  local wanted=$ROOT/target/dev fallback
  if usable_state "$wanted"; then
    STATE=$wanted
    return 0
  fi
  for fallback in "${TMPDIR:-/tmp}/overdue-dev-$CHECKOUT" "/tmp/overdue-dev-$CHECKOUT"; do
    if usable_state "$fallback"; then
      STATE=$fallback
      return 0
    fi
  done
  die "no folder for the services' data: neither $wanted nor $fallback is reachable for the user nobody"
}

usable_state() {
  local folder=$1
  [[ $folder =~ ^[A-Za-z0-9/._+-]+$ ]] || return 1
  # target/ may have to be created too; a umask of 077 must not hide either from the unprivileged user.
  (umask 022 && mkdir -p "$folder") 2>/dev/null || return 1
  # In a shared /tmp another user may have created it first.
  [[ -d $folder && ! -L $folder && -O $folder ]] || return 1
  step_down nobody
  "${STEP_DOWN[@]}" test -x "$folder"
}

# Two terminals may start or stop at the same time; the second waits. The daemons must not inherit the lock (see spawn).
LOCK_FD=
lock_state() {
  [[ -z $LOCK_FD ]] || return 0 # held already: stopping after a start that failed
  exec {LOCK_FD}>"$STATE/lock"
  flock -w 300 "$LOCK_FD" || die "another dev/services has held $STATE/lock for five minutes"
}
unlock_state() {
  exec {LOCK_FD}>&-
  LOCK_FD=
}

random_password() { od -An -N18 -tx1 /dev/urandom | tr -d ' \n'; }

# --- processes ----------------------------------------------------------------------------------------------------

# birth PID: a value that no other process with this pid has, so that a stale pid file is recognised. Fails when the
# process is gone or a zombie.
birth() {
  local stat fields
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }" # the command's name may hold anything, so count from behind it
  [[ ${fields[0]} != Z ]] || return 1
  printf '%s@%s' "${fields[19]}" "$(</proc/sys/kernel/random/boot_id)"
}

# spawn NAME LOG CMD...: runs CMD, stepped down, in a session of its own (Ctrl-C must not reach it), remembered as NAME.
spawn() {
  local name=$1 log=$2
  shift 2
  (
    cd "$STATE"
    # A daemon outlives the script; it must not keep the script's locks or its caller's pipes.
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      ((fd < 3)) || eval "exec $fd>&-"
    done
    exec setsid "${STEP_DOWN[@]}" "$@"
  ) </dev/null >"$log" 2>&1 &
  printf '%s %s\n' $! "$(birth $! || true)" >"$STATE/$name.pid"
}

# pid_of NAME: the pid, if that same process still runs.
pid_of() {
  local pid born
  { read -r pid born <"$STATE/$1.pid"; } 2>/dev/null || return 1
  [[ $(birth "$pid") == "$born" ]] || return 1
  printf '%s' "$pid"
}

# ask_to_end NAME SIGNAL, then wait_ended NAME SIGNAL SECONDS: two functions, so that several can shut down in parallel.
ask_to_end() {
  local pid
  pid=$(pid_of "$1") || return 0
  kill -s "$2" "$pid" 2>/dev/null || true
}
wait_ended() {
  local name=$1 signal=$2 deadline=$((SECONDS + $3)) again=$((SECONDS + 3)) pid
  while pid=$(pid_of "$name"); do
    if ((SECONDS >= deadline)); then
      say "$name (pid $pid) did not stop in $3 s; killing it"
      kill -s KILL "$pid" 2>/dev/null || true
    elif ((SECONDS >= again)); then
      again=$((SECONDS + 3))
      ask_to_end "$name" "$signal" # an Erlang VM that has only just started loses the first one
    fi
    sleep 0.1
  done
  rm -f "$STATE/$name.pid"
}

# wait_ready TITLE SECONDS LOG ALIVE READY: waits until the command READY succeeds; on failure shows the end of the log.
wait_ready() {
  local title=$1 deadline=$((SECONDS + $2)) log=$3 alive=$4 ready=$5 why=
  until $ready; do
    if ! $alive; then
      why="$title ended while starting"
    elif ((SECONDS >= deadline)); then
      why="$title was not ready after $2 s"
    fi
    if [[ -n $why ]]; then
      $log | tail -n 25 >&2
      die "$why; the end of its log is above"
    fi
    sleep 0.1
  done
}

# --- ports --------------------------------------------------------------------------------------------------------

listening_ports() {
  local local_address state
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ local_address _ state _; do
    [[ $state != 0A ]] || printf '%d\n' "0x${local_address##*:}"
  done | sort -nu
}

# free_ports N: from 20000 to 31999, because outgoing connections use ports from 32768 on.
free_ports() {
  local taken port found=0
  taken=" $(listening_ports | tr '\n' ' ')"
  while ((found < $1)); do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    [[ $taken != *" $port "* ]] || continue
    taken+="$port "
    found=$((found + 1))
    printf '%s\n' "$port"
  done
}

ports_free() {
  local taken port
  taken=" $(listening_ports | tr '\n' ' ')"
  for port in "$@"; do
    [[ $taken != *" $port "* ]] || return 1
  done
}

# Whether the port answers an AMQP greeting: an open port alone may be a proxy whose broker still boots.
amqp_answers() {
  local host=$1 port=$2
  [[ $(
    timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "AMQP\0\0\11\1" >&3 && head -c 1 <&3 | od -An -tx1' \
      "$host" "$port" 2>/dev/null
  ) == *01 ]]
}

# --- packages -----------------------------------------------------------------------------------------------------

# need_package COMMAND-OR-FILE PACKAGE...: installs the packages if the command or file is missing.
need_package() {
  local needed=$1 root=()
  shift
  if command -v "$needed" >/dev/null || compgen -G "$needed" >/dev/null; then return 0; fi
  command -v apt-get >/dev/null ||
    die "${needed##*/} is missing and there is no apt-get: install $*, or set DATABASE_URL and AMQP_URL to yours"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "${needed##*/} is missing: run 'apt-get install $*' as root"
    root=(sudo)
  fi
  say "installing $* (apt-get)"
  local log
  log=$(mktemp)
  # RUNLEVEL=1 keeps the packages from starting their services: ours are private to the checkout.
  if ! {
    ${root[@]+"${root[@]}"} apt-get -o DPkg::Lock::Timeout=300 update &&
      ${root[@]+"${root[@]}"} env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
  } </dev/null >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    rm -f "$log"
    die "apt-get could not install $*; the end of its output is above"
  fi
  rm -f "$log"
}
