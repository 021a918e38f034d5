# Runs one job and writes down how it ended, so that the job does not need its agent.
#
# Standard input is the job's status file: open for appending and locked by whoever started
# us. The lock lives as long as the descriptor, so it is free exactly when we are gone.
# $1 $2 $3: limits for the job (memory in KiB, open files, processes), `-` for none.
# The rest is the job's command: an absolute path and its arguments, never parsed again.
#
# Only builtins are used, since PATH is the job's own. No variable is set, since variables
# of the same name in the job's environment would change.

exec 9>&0 0</dev/null 8>&1 1>/dev/null 2>/dev/null

# The group gets SIGTERM as a whole; we outlive it to see the exit code. Handlers, unlike
# ignored signals, are back to their defaults in the job.
trap : TERM INT HUP QUIT

# The job runs in the foreground: in the background a shell would make it ignore SIGINT. Its
# supervisor's id is written only after SIGTERM has its default action again: a process that
# reads the id may send SIGTERM at once, and the signal is not ignored.
(
    [ "$1" = - ] || ulimit -v "$1" || exit 126
    [ "$2" = - ] || ulimit -n "$2" || exit 126
    [ "$3" = - ] || ulimit -u "$3" 2>/dev/null || ulimit -p "$3" || exit 126
    shift 3
    echo "pid $$" >&9
    exec "$@" 9>&-
) 1>&8 2>&8 8>&-

echo "exit $?" >&9
