"""What Tab knows of the commands. Made from them by `make completions`; never edited.

A command: what it does; its options; its arguments; its verbs. An option: its names; the kind of its value; whether it may be
said again; what it does. An argument: its kind; whether more of them follow. A kind: a word that `tab` knows, or all values.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Option: TypeAlias = tuple[tuple[str, ...], str | tuple[str, ...], bool, str]
    Command: TypeAlias = tuple[str, tuple[Option, ...], tuple[tuple[str | tuple[str, ...], bool], ...], dict[str, "Command"]]

GLOBAL: Final[tuple[Option, ...]] = (
    (('--context',), 'context', False, 'Which cluster, by its context.'),
    (('-e', '--endpoints'), 'addresses', True, 'Where the cluster is reached.'),
    (('--cacert',), 'file', False, "Use TLS; this authority signed the daemons' certificates."),
    (('--cert',), 'file', False, 'The certificate to show to daemons that ask for one.'),
    (('--key',), 'file', False, 'The private key of --cert.'),
    (('--timeout',), 'text', False, 'How long to wait: 500ms, 2s, 1m.'),
    (('-o', '--output'), ('table', 'wide', 'json', 'yaml', 'name'), False, 'How to print.'),
    (('--consistency',), ('linearizable', 'quorum', 'stale'), False, 'What a read may show.'),
    (('--dry-run',), 'flag', False, 'Show what would be done, and stop.'),
    (('-y', '--yes'), 'flag', False, 'Do not ask.'),
    (('-q', '--quiet'), 'flag', False, 'No prose and no progress on stderr.'),
    (('-v', '--verbose'), 'flag', False, 'Say more about errors.'),
    (('--color',), ('auto', 'always', 'never'), False, 'When to colour; NO_COLOR is heeded.'),
    (('-h', '--help'), 'flag', False, 'Show this message and exit.'),
)

ROOT: Final[Command] = ('', ((('--version',), 'flag', False, 'Show the version and exit.'),), (), {
    'bootstrap': ('Turn blank daemons into a new cluster.', (
        (('--name',), 'text', False, "The cluster's name. [default: ravel]"),
    ), (('text', True),), {
    }),
    'join': ('Take a blank daemon into a cluster.', (
        (('--via',), 'addresses', False, 'Members of the cluster. [default: --endpoints]'),
        (('--no-promote',), 'flag', False, 'Stay a learner until promoted with `member promote`.'),
        (('--wait', '--no-wait'), 'flag', False, 'Wait until it has caught up and votes.'),
        (('--reset',), 'flag', False, 'First set aside the data of a daemon that was removed, or whose data is old.'),
    ), (('text', False),), {
    }),
    'leave': ('Take a replica out for good.', (
    ), (('replica', False),), {
    }),
    'status': ('Show how the cluster does, at one look.', (
        (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
    ), (), {
    }),
    'health': ('Say in one line whether the cluster is healthy.', (
        (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        (('--format',), ('text', 'nagios'), False, 'Also the exit codes.'),
    ), (), {
    }),
    'top': ('Show terms, leaders and lag, live.', (
        (('--interval',), 'text', False, 'How often replicas report, 100ms to 60s. [default: 1s]'),
        (('--read-only',), 'flag', False, 'Switch off whatever changes the cluster.'),
        (('--record',), 'file', False, 'Record what is shown.'),
        (('--replay',), 'file', False, 'Play a recording; no cluster is asked.'),
        (('--theme',), ('dark', 'light', 'ansi'), False, 'How it looks. [default: what fits the terminal]'),
        (('--bell',), 'flag', False, "Ring the terminal's bell when an alarm is critical."),
        (('--web',), 'flag', False, 'Serve it to browsers on this machine, read-only.'),
        (('--port',), 'text', False, 'For --web. [default: 8000]'),
    ), (), {
    }),
    'record': ('Record a cluster, for `top --replay`.', (
        (('--for',), 'text', False, 'How long. [default: until interrupted]'),
        (('--interval',), 'text', False, 'How often replicas report, 100ms to 60s. [default: 1s]'),
    ), (('file', False),), {
    }),
    'doctor': ('Say why there is no leader, or what is at risk.', (
        (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        (('--data-dir',), 'file', True, 'Look at this data directory, whether or not its daemon runs. May be repeated.'),
        (('--bundle',), 'file', False, 'Also put all that is seen into this archive (.tar.gz), without secrets and without keys and values.'),
        (('--with-keys',), 'flag', False, "Let the bundle's log entries name the keys that they are about."),
        (('--metrics',), 'text', True, "Put what this daemon's --metrics-listen shows into the bundle."),
        (('--explain',), 'code', False, 'Tell what a code means, as `doctor CODE` does.'),
    ), (('code', False),), {
    }),
    'member': ('List, promote, demote, replace, remove, update members.', (
    ), (), {
        'demote': ('Make voters learners, all in one change.', (
        ), (('replica', True),), {
        }),
        'list': ('List the members of the cluster.', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        ), (), {
        }),
        'promote': ('Make learners voters, all in one change.', (
        ), (('replica', True),), {
        }),
        'remove': ('Take replicas out for good, all in one...', (
        ), (('replica', True),), {
        }),
        'replace': ('Replace REPLICA, a name or an id, by a new...', (
            (('--with',), 'text', False, 'The blank daemon that takes its place. [default: its own daemon]'),
        ), (('replica', False),), {
        }),
        'update': ('Change the recorded addresses or the name...', (
            (('--listen',), 'text', False, 'Its new address for clients.'),
            (('--peer',), 'text', False, 'Its new address for other replicas.'),
            (('--name',), 'text', False, 'Its new name.'),
        ), (('replica', False),), {
        }),
    }),
    'settings': ('Show and change the settings of the whole cluster.', (
    ), (), {
        'list': ('List the settings of the cluster with...', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        ), (), {
        }),
        'set': ('Set the setting NAME to VALUE on all members.', (
        ), (('text', False), ('text', False)), {
        }),
    }),
    'leader': ('Show, transfer or give up leadership.', (
    ), (), {
        'show': ('Show who leads the cluster.', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        ), (), {
        }),
        'stepdown': ('Have the leader stop leading, and the...', (
        ), (), {
        }),
        'transfer': ('Hand leadership to REPLICA, a name or an...', (
        ), (('replica', False),), {
        }),
    }),
    'events': ('Show what has happened: elections, changes, alarms.', (
        (('--since',), 'text', False, 'Only those of so long ago or later, such as 10m, or 2026-03-02T10:04:11Z.'),
        (('--follow', '-f'), 'flag', False, 'Then go on with those that come, until interrupted.'),
        (('--kind',), ('server', 'election', 'leadership', 'membership', 'snapshots', 'alarm', 'action'), True, 'Only of this kind; may be repeated.'),
        (('--limit',), 'text', False, 'The newest so many. [default: 100, with --follow 10]'),
        (('--replica',), 'replica', False, 'Only what this replica tells: a name or an id. [default: all]'),
    ), (), {
    }),
    'log': ('Show, follow, compare and verify logs.', (
    ), (), {
        'diff': ('Find where two logs, or what was made of...', (
            (('--from',), 'text', False, 'First index. [default: the first that both have]'),
            (('--to',), 'text', False, 'Last index. [default: the last that both have]'),
            (('--state', '--no-state'), 'flag', False, 'Compare what was applied too, where the entries are the same. Of two directories that copies both to TMPDIR; of two replicas their leader has all hash their states. [default: of two replicas]'),
        ), (('text', False), ('text', False)), {
        }),
        'follow': ('Print entries as they are committed,...', (
            (('--from',), 'text', False, 'First index. [default: the last ten, then what comes]'),
            (('--limit',), 'text', False, 'End after so many entries.'),
            (('--since',), 'text', False, 'Of so long ago or later, such as 10m, or 2026-03-02T10:04:11Z.'),
            (('--term',), 'text', False, 'Only entries of this term.'),
            (('--type',), ('put', 'delete', 'getdel', 'cas', 'write', 'session', 'allocate', 'config', 'noop', 'batch', 'unknown', 'unreadable', 'damaged'), True, 'Only these; may be repeated.'),
            (('--prefix',), 'text', False, 'Commands that name a key beginning with this.'),
            (('--replica',), 'replica', False, "Whose log: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Read this directory instead of asking a daemon.'),
        ), (), {
        }),
        'show': ('Show log entries, a line a command; the...', (
            (('--from',), 'text', False, 'First index. [default: the first there is]'),
            (('--to',), 'text', False, 'Last index.'),
            (('--limit',), 'text', False, 'So many entries at most.'),
            (('--tail',), 'flag', False, 'The last entries instead of the first.'),
            (('--since',), 'text', False, 'Of so long ago or later, such as 10m, or 2026-03-02T10:04:11Z.'),
            (('--until',), 'text', False, 'Of so long ago or earlier, or of this time or earlier.'),
            (('--term',), 'text', False, 'Only entries of this term.'),
            (('--type',), ('put', 'delete', 'getdel', 'cas', 'write', 'session', 'allocate', 'config', 'noop', 'batch', 'unknown', 'unreadable', 'damaged'), True, 'Only these; may be repeated.'),
            (('--prefix',), 'text', False, 'Commands that name a key beginning with this.'),
            (('--replica',), 'replica', False, "Whose log: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Read this directory instead of asking a daemon.'),
        ), (), {
        }),
        'verify': ('Read every record of a log: check sums, no...', (
            (('--replica',), 'replica', False, "Whose log: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Read this directory instead of asking a daemon.'),
        ), (), {
        }),
    }),
    'store': ('Measure, check, compare and compact what lies on disks.', (
    ), (), {
        'check': ('Read everything and verify it: check sums,...', (
            (('--replica',), 'replica', False, "Whose: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Read this directory instead of asking a daemon.'),
        ), (), {
        }),
        'compact': ('Drop log entries that a replica does not...', (
            (('--keep',), 'text', False, 'Log entries to leave, for followers that were away for a moment.'),
            (('--replica',), 'replica', False, "Whose: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Rewrite the files of this stopped daemon without their free pages.'),
        ), (), {
        }),
        'hash': ('Have every replica hash its state at one...', (
            (('--data-dir',), 'file', True, "Hash this directory's state instead of asking daemons; may be repeated."),
        ), (), {
        }),
        'stats': ('Show how large log and state are, and how...', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
            (('--replica',), 'replica', False, "Whose: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Read this directory instead of asking a daemon.'),
        ), (), {
        }),
    }),
    'snapshot': ('Save, inspect, verify and restore snapshots.', (
    ), (), {
        'at': ('Make a snapshot FILE of the state as it...', (
            (('--index',), 'text', False, 'The last entry whose effects it is to have.'),
            (('--data-dir',), 'file', False, 'Whose log, and whose state or snapshots.'),
            (('--from',), 'file', False, 'Begin with this snapshot file instead of one there.'),
            (('-f', '--file'), 'file', False, 'Where to.'),
            (('--overwrite',), 'flag', False, 'Replace FILE, if it is there, once the new one is whole.'),
        ), (), {
        }),
        'inspect': ('Tell what a saved FILE holds, by the first...', (
            (('--separator',), 'text', False, 'What ends the first part of a key.'),
            (('--limit',), 'text', False, 'Prefixes shown, the largest first.'),
        ), (('file', False),), {
        }),
        'list': ('List the snapshot files that a replica...', (
            (('--replica',), 'replica', False, "Whose: a name or an id. [default: the first endpoint's that answers]"),
            (('--data-dir',), 'file', False, 'Those in this directory, instead of asking a daemon.'),
        ), (), {
        }),
        'restore': ('Make the data directory of a new cluster...', (
            (('--data-dir',), 'file', False, 'The data directory to make; it must be free.'),
            (('--name',), 'text', False, "Name of the new cluster's first replica."),
            (('--cluster-name',), 'text', False, "Name of the new cluster. [default: the old one's]"),
        ), (('file', False),), {
        }),
        'save': ('Save the state of the store into FILE,...', (
            (('-f', '--file'), 'file', False, 'Where to.'),
            (('--overwrite',), 'flag', False, 'Replace FILE, if it is there, once the new one is whole.'),
            (('--replica',), 'replica', False, "Whose: a name or an id. [default: the first endpoint's that answers]"),
        ), (), {
        }),
        'verify': ('Read everything in a saved FILE: size and...', (
        ), (('file', False),), {
        }),
    }),
    'recover': ('Make a new cluster of what a lost quorum left.', (
    ), (), {
        'apply': ('Make a new cluster of one out of the data...', (
            (('--to',), 'file', False, 'The data directory to make; it must be free.'),
            (('--name',), 'text', False, "Name of the new cluster's first replica. [default: the old one's]"),
            (('--cluster-name',), 'text', False, "Name of the new cluster. [default: the old one's]"),
            (('--index',), 'text', False, 'Take the log only up to this entry. [default: all of it]'),
            (('--confirm',), 'text', False, "The old cluster's id, in place of typing it."),
        ), (('file', False),), {
        }),
        'plan': ('Rank what is left: data directories (with...', (
        ), (('text', True),), {
        }),
    }),
    'verify': ('Test whether a live cluster is linearizable.', (
        (('--seconds',), 'text', False, 'How long; it also ends after 30,000 operations.'),
        (('--clients',), 'text', False, 'Callers at once.'),
        (('--keys',), 'text', False, 'Different keys.'),
    ), (), {
    }),
    'kv': ('Get, put, delete, swap, list and watch keys.', (
    ), (), {
        'cas': ('Write VALUE under KEY if its revision is...', (
            (('--file',), 'file', False, 'Take the value from this file.'),
            (('--revision',), 'text', False, "The key's revision must be this; 0: it must not be there."),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False), ('text', False)), {
        }),
        'del': ('Delete KEY, or all keys with a prefix.', (
            (('--prefix',), 'text', False, 'Delete all keys that begin so, after a look at how many there are.'),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False),), {
        }),
        'get': ('Print the value of KEY, and a newline.', (
            (('--raw',), 'flag', False, "Print the value's bytes and nothing after them."),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False),), {
        }),
        'list': ('List keys in byte order: all, those that...', (
            (('--prefix',), 'text', False, 'The same as PREFIX, as `del` and `watch` spell it.'),
            (('--start',), 'text', False, 'First key, inclusive.'),
            (('--end',), 'text', False, 'Last key, exclusive.'),
            (('--limit',), 'text', False, 'So many keys at most; 0: all.'),
            (('--keys-only',), 'flag', False, 'Leave the values out.'),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False),), {
        }),
        'put': ('Write VALUE under KEY; `-` reads the value...', (
            (('--file',), 'file', False, 'Take the value from this file.'),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False), ('text', False)), {
        }),
        'watch': ('Print every change of KEY, of the keys...', (
            (('--prefix',), 'text', False, 'All keys that begin so.'),
            (('--from',), 'text', False, 'First revision to print, or the position that an earlier watch printed when it ended. [default: from now on]'),
            (('--limit',), 'text', False, 'End after so many changes; 0: never.'),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False),), {
        }),
    }),
    'admin': ('List clusters, servers and slots; move slots.', (
    ), (), {
        'add-cluster': ('Put a cluster on the list, or change it.', (
            (('--replicas',), 'text', False, 'How many it wants. [default: as it is; 3 for a new one]'),
        ), (('text', False),), {
        }),
        'adopt': ('Give a restored or recovered cluster its...', (
            (('--confirm',), 'text', False, "The old cluster's id, in place of typing it."),
        ), (('text', False), ('text', True)), {
        }),
        'clusters': ('List clusters: leader, replicas, slots.', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
        ), (), {
        }),
        'forget': ('Strike a SERVER off the list that is gone.', (
        ), (('server', False),), {
        }),
        'leave': ('Take SERVER out of its cluster for good.', (
        ), (('server', False),), {
        }),
        'rebalance': ('Move slots: every cluster bears its share.', (
            (('--plan',), 'flag', False, 'Show what would move. [default]'),
            (('--apply',), 'flag', False, 'Move it, and tell how it gets on.'),
            (('--follow',), 'flag', False, 'Tell how the moves that are under way get on.'),
            (('--stop',), 'flag', False, 'Call off what is not yet decided. What was moved stays moved.'),
            (('--empty',), 'text', True, 'This cluster is to own no slots. May be given again.'),
        ), (), {
        }),
        'reconcile': ('Make registry and clusters agree on slots.', (
            (('--accept-loss',), 'text', False, 'Slots that open although keys are lost: 0-99,200, or all.'),
        ), (), {
        }),
        'remove-cluster': ('Strike a cluster off the list that is empty.', (
        ), (('text', False),), {
        }),
        'servers': ('List servers: cluster, address, last heard.', (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
            (('--cluster',), 'text', False, 'Only those of this cluster.'),
        ), (), {
        }),
        'slots': ("Show who owns which slots, or a key's slot.", (
            (('--watch',), 'text', False, 'Repeat, every 2s or as told with --watch=DURATION.'),
            (('--hex',), 'flag', False, 'Keys and values are hex, in and out. Files and stdin hold plain bytes.'),
            (('--base64',), 'flag', False, 'Keys and values are base64, in and out. Files and stdin hold plain bytes.'),
        ), (('text', False),), {
        }),
    }),
    'playground': ('Run a real cluster on this machine.', (
    ), (), {
        'down': ('Stop the daemons in order, and forget...', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
            (('--purge',), 'flag', False, 'Also remove the data.'),
        ), (), {
        }),
        'heal': ('Let all hear each other again, and those...', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (), {
        }),
        'kill': ('Crash the daemon of NAME, or of `leader`.', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (('player', False),), {
        }),
        'partition': ('Cut daemons into groups that do not hear...', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (('player', True),), {
        }),
        'pause': ('Have the daemon of NAME, or of `leader`,...', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (('player', False),), {
        }),
        'start': ('Start the daemon of NAME again.', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (('player', False),), {
        }),
        'status': ('Show its daemons: which run, hang or are...', (
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground, else the only one elsewhere]'),
        ), (), {
        }),
        'up': ('Start a cluster, or what is down of it.', (
            (('--replicas',), 'text', False, 'How many, in each cluster. [default: 3]'),
            (('--clusters',), 'text', False, 'How many clusters; with admins more may be added later.'),
            (('--admins',), 'text', False, 'How many admin servers keep the list of the clusters. [default: none; 3 for several clusters]'),
            (('--http',), 'flag', False, 'The first admin server serves HTTP too.'),
            (('--dir',), 'dir', False, 'Where it lives. [default: ~/.local/state/ravel/playground]'),
            (('--detach', '--attach'), 'flag', False, 'Leave the daemons running, or stop them with Ctrl-C.'),
        ), (), {
        }),
    }),
    'bench': ('Put load on a live cluster and measure it.', (
        (('--clients',), 'text', False, 'Callers at once.'),
        (('--pipeline',), 'text', False, 'Commands a message.'),
        (('--value-size',), 'text', False, 'Bytes a value.'),
        (('--seconds',), 'text', False, 'How long.'),
        (('--mix',), ('put', 'get', 'mixed'), False, 'What to do; mixed is half and half.'),
        (('--keys',), 'text', False, 'Different keys.'),
        (('--prefix',), 'text', False, 'What the keys begin with.'),
    ), (), {
    }),
    'context': ('Keep clusters under names, and choose among them.', (
    ), (), {
        'add': ('Keep where a cluster is reached, and how,...', (
            (('--cluster',), 'text', False, "The cluster's id, all 32 digits. [default: what the daemons say]"),
            (('--use', '--no-use'), 'flag', False, 'Make it the current one. [default: if there is none yet]'),
            (('--replace',), 'flag', False, 'Replace a context of that name.'),
        ), (('text', False),), {
        }),
        'list': ('List the contexts; the current one is marked.', (
        ), (), {
        }),
        'remove': ('Forget NAME.', (
        ), (('context', False),), {
        }),
        'show': ('Show what NAME, or the current context, says.', (
        ), (('context', False),), {
        }),
        'use': ('Make NAME the current context: the one...', (
        ), (('context', False),), {
        }),
    }),
    'config': ('Show which settings hold, and check their file.', (
    ), (), {
        'check': ('Tell all that is wrong with the file of...', (
        ), (), {
        }),
        'show': ('Show the settings that a command run like...', (
            (('--show-origin',), 'flag', False, 'Also tell where each value comes from.'),
        ), (), {
        }),
    }),
    'completion': ("Print a shell's completion script.", (
    ), ((('bash', 'zsh', 'fish'), False),), {
    }),
    'version': ('Print the version.', (
    ), (), {
    }),
    'help': ('Tell about ravelctl, or about one command.', (
    ), (('text', True),), {
    }),
})
