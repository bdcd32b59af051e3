"""Hostile programs: they answer 42 if, and only if, they got through.

The outcome "correct" then marks a breach, except where it is the expected one: what the program
does on the way is what must not happen. Words in capitals are filled in by the test: CANARY (a file
of the user), FOLDER (where it lies), GOLD (the file with the gold answers), PORT (a TCP and UDP
server on this machine), PID (the caller's process). The form of a case is told in battery.py.
"""

OUT = "wrong|error"  # whatever it says, but not that it got through


def system_call(number, *arguments):
    """A program that makes a system call, by its number on x86-64; 42 if the kernel did as told."""
    values = ", ".join(map(str, arguments))
    return ("import ctypes\nbuffer = ctypes.create_string_buffer(256)\n"
            f"answer = 42 if ctypes.CDLL(None).syscall({number}, {values}) >= 0 else 0")


HOSTILE = [
    # Time
    ("endless loop", "timeout", "while True: pass"),
    ("endless sleep", "timeout", "import time\ntime.sleep(1000)"),
    ("swallows every exception", "timeout",
     "while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
    ("ignores every signal it may", "timeout", "import signal\nfor n in range(1, 65):\n"
     "    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass"),
    ("loops in C", "timeout", "sum(iter(int, 1))"),
    ("backtracking", "timeout", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    ("endless printing", "timeout", "while True: print('x' * 1000)"),
    ("8 busy threads", "timeout", "import threading\ndef f():\n    while True: pass\n"
     "for _ in range(8): threading.Thread(target=f).start()\nf()"),
    ("thread outlives the answer", "correct",
     "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\n"
     "answer = 42"),
    ("atexit that loops", "correct",
     "import atexit\ndef f():\n    while True: pass\natexit.register(f)\nanswer = 42"),
    ("finaliser that loops", "correct",
     "class A:\n    def __del__(self):\n        while True: pass\na = A()\nanswer = 42"),
    ("deadlock", "timeout",
     "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"),
    ("pause", "timeout", "import signal\nsignal.pause()"),
    ("stops itself", "error|timeout", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    ("waits for input", "error", "import os\nanswer = int(os.read(0, 10))"),
    ("huge power", "timeout|error", "x = 9 ** 9 ** 9"),

    # Memory and floods
    ("10 GB at once", "error", "x = bytearray(10 << 30)"),
    ("memory bit by bit", "error|timeout", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
    ("list that doubles", "error|timeout", "x = [0]\nwhile True: x += x"),
    ("mapping of 8 GB", "error", "import mmap\nmmap.mmap(-1, 8 << 30)"),
    ("recursion without end", "error", "def f(): return f()\nf()"),
    ("recursion without limit", "error|timeout",
     "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"),
    ("big file", OUT,
     "with open('big', 'wb') as file:\n    for _ in range(200): file.write(bytes(1 << 20))\n"
     "answer = 42"),
    ("many files", "error|timeout",
     "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 20))\n    n += 1"),
    ("300 files", "error", "for n in range(300): open(str(n), 'w').close()\nanswer = 42"),
    ("65 files", "error", "for n in range(65): open(str(n), 'w').close()\nanswer = 42"),
    ("100 threads", "error", "import threading, time\n"
     "for _ in range(100): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
     "time.sleep(0.3)\nanswer = 42"),
    ("many open files", OUT, "files = [open('x', 'w') for _ in range(5000)]\nanswer = 42"),
    ("many threads", "wrong|error|timeout",
     "import threading, time\nthreading.stack_size(32768)\n"
     "for _ in range(100_000): threading.Thread(target=time.sleep, args=(9,)).start()\n"
     "answer = 42"),
    ("10 MB on stdout and stderr", "correct",
     "import os\nfor _ in range(80):\n    os.write(1, bytes(65536))\n"
     "    os.write(2, bytes(65536))\nanswer = 42"),
    ("fills every descriptor", "timeout|error",
     "import os\nfor _ in range(100):\n    for fd in range(64):\n"
     "        try: os.write(fd, bytes(65536))\n        except OSError: pass\nanswer = 42"),

    # Processes
    ("fork", OUT, "import os\nif os.fork() == 0: os._exit(0)\nanswer = 42"),
    ("fork bomb", "error|timeout", "import os\nwhile True: os.fork()"),
    ("daemon", OUT,
     "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
     "    if os.fork() == 0: time.sleep(77)\n    os._exit(0)\nanswer = 42"),
    ("subprocess", OUT, "import subprocess\nsubprocess.Popen(['sleep', '77'])\nanswer = 42"),
    ("os.system", OUT, "import os\nanswer = 42 if os.system('true') == 0 else 0"),
    ("os.popen", OUT, "import os\nanswer = os.popen('echo 42').read()"),
    ("posix_spawn", OUT,
     "import os\nos.posix_spawn('/bin/sleep', ['sleep', '77'], {})\nanswer = 42"),
    ("multiprocessing", OUT,
     "import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()\nanswer = 42"),
    ("exec", "error", "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo 42'])"),
    ("clone", OUT, system_call(56, 17, 0, 0, 0, 0)),
    ("clone3", OUT, system_call(435, "buffer", 88)),

    # Signals, tracing, rights
    ("kills its parent", OUT, "import os\nos.kill(os.getppid(), 9)\nanswer = 42"),
    ("kills the caller", OUT, "import os\nos.kill(PID, 9)\nanswer = 42"),
    ("kills all it may", OUT, "import os\nos.kill(-1, 9)\nanswer = 42"),
    ("kills its parent's group", OUT,
     "import os\nos.killpg(os.getpgid(os.getppid()), 9)\nanswer = 42"),
    ("tgkill", OUT, system_call(234, "PID", "PID", 9)),
    ("tkill", OUT, system_call(200, "PID", 9)),
    ("queued signal", OUT, system_call(129, "PID", 9, "buffer")),
    ("signal by pidfd", OUT,
     "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(PID), 9)\nanswer = 42"),
    ("stops the caller with SIGIO", OUT,
     "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, PID)\n"
     "fcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')\n"
     "answer = 1"),
    ("traces its parent", OUT,
     "import ctypes, os\n"
     "answer = 42 if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 0"),
    ("traces the caller", OUT, system_call(101, 16, "PID", 0, 0)),
    ("reads the caller's memory", OUT, "open('/proc/PID/mem', 'rb')\nanswer = 42"),
    ("reads its parent's memory", OUT,
     "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')\nanswer = 42"),
    ("process_vm_readv", OUT, system_call(310, "PID", 0, 0, 0, 0, 0)),
    ("reads the caller's environment", OUT, "open('/proc/PID/environ', 'rb').read()\nanswer = 42"),
    ("reads the caller's command line", OUT, "open('/proc/PID/cmdline', 'rb').read()\nanswer = 42"),
    ("lists the caller's descriptors", OUT, "import os\nos.listdir('/proc/PID/fd')\nanswer = 42"),
    ("pidfd of the caller", OUT, system_call(434, "PID", 0)),
    ("lifts its CPU limit", OUT,
     "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nanswer = 42"),
    ("lifts its memory limit", OUT,
     "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nanswer = 42"),
    ("changes the caller's limits", OUT,
     "import resource\nresource.prlimit(PID, resource.RLIMIT_NOFILE, (1, 1))\nanswer = 42"),
    ("niceness", OUT, "import os\nos.nice(-10)\nanswer = 42"),
    ("real-time priority", OUT, system_call(144, 0, 1, "buffer")),
    ("setresuid", OUT, "import os\nos.setresuid(0, 0, 0)\nanswer = 42"),
    ("capabilities back", OUT, "import ctypes, struct\nhead = struct.pack('=Ii', 0x20080522, 0)\n"
     "answer = 42 if ctypes.CDLL(None).capset(head, b'\\xff' * 24) == 0 else 0"),
    ("user namespace", OUT, system_call(272, 0x10000000)),
    ("chroot", OUT, "import os\nos.chroot('.')\nanswer = 42"),
    ("mount", OUT, system_call(165, "b'none'", "b'.'", "b'tmpfs'", 0, 0)),
    ("prctl dumpable", OUT, system_call(157, 4, 1, 0, 0, 0)),
    ("prctl to outlive the server", OUT, system_call(157, 1, 0, 0, 0, 0)),
    ("io_uring", OUT, system_call(425, 8, "buffer")),
    ("bpf", OUT, system_call(321, 0, "buffer", 120)),
    ("perf", OUT, system_call(298, "buffer", 0, -1, -1, 0)),
    ("userfaultfd", OUT, system_call(323, 1)),
    ("keyring", OUT, system_call(248, "b'user'", "b'x'", "b'y'", 1, -3)),
    ("System V shared memory", OUT, system_call(29, 0, 4096, 0o1666)),
    ("message queue", OUT, system_call(68, 0, 0o1666)),
    ("memory file", OUT, "import os\nos.memfd_create('x')\nanswer = 42"),
    ("32-bit system calls", OUT, "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\n"
     "code.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
     "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))\n"
     "answer = 42 if f() > 0 else 0"),
    ("x32 system calls", OUT, system_call(0x40000000 + 39)),

    # Files
    ("reads /etc/passwd", OUT, "open('/etc/passwd').read()\nanswer = 42"),
    ("reads the gold answers", OUT,
     "import json\nanswer = json.loads(open('GOLD').readline())['answer']"),
    ("lists the user's folder", OUT, "import os\nanswer = 42 if os.listdir('FOLDER') else 0"),
    ("reads", OUT, "open('CANARY').read()\nanswer = 42"),
    ("writes", OUT, "open('CANARY', 'w').write('owned')\nanswer = 42"),
    ("appends", OUT, "open('CANARY', 'a').write('owned')\nanswer = 42"),
    ("deletes", OUT, "import os\nos.remove('CANARY')\nanswer = 42"),
    ("renames", OUT, "import os\nos.rename('CANARY', 'CANARY.x')\nanswer = 42"),
    ("moves away", OUT, "import os\nos.rename('CANARY', 'x')\nanswer = 42"),
    ("replaces", OUT,
     "import os\nopen('x', 'w').write('owned')\nos.replace('x', 'CANARY')\nanswer = 42"),
    ("truncates", OUT, "import os\nos.truncate('CANARY', 0)\nanswer = 42"),
    ("truncates by reading", OUT,
     "import os\nos.open('CANARY', os.O_RDONLY | os.O_TRUNC)\nanswer = 42"),
    ("truncates a file of Python's", OUT,
     "import os, colorsys\nos.open(colorsys.__file__, os.O_TRUNC)\nanswer = 42"),
    ("writes beside Python's files", OUT,
     "import os\nopen(os.path.dirname(os.__file__) + '/owned.py', 'w')\nanswer = 42"),
    ("mode", OUT, "import os\nos.chmod('CANARY', 0)\nanswer = 42"),
    ("owner", OUT, "import os\nos.chown('CANARY', os.getuid(), 1)\nanswer = 42"),
    ("times", OUT, "import os\nos.utime('CANARY', (0, 0))\nanswer = 42"),
    ("extended attribute", OUT, "import os\nos.setxattr('CANARY', 'user.x', b'1')\nanswer = 42"),
    ("a set-user-id file", OUT,
     "import os\nos.open('x', os.O_CREAT | os.O_WRONLY, 0o4755)\n"
     "answer = 42 if os.stat('x').st_mode & 0o6000 else 0"),
    ("a set-group-id file", OUT,
     "import os\nos.umask(0)\nos.open('x', os.O_CREAT | os.O_WRONLY, 0o2755)\n"
     "answer = 42 if os.stat('x').st_mode & 0o6000 else 0"),
    ("a set-user-id file without a name", OUT,
     "import os\nfd = os.open('.', os.O_TMPFILE | os.O_WRONLY, 0o4755)\n"
     "answer = 42 if os.fstat(fd).st_mode & 0o6000 else 0"),
    ("chmod to set-user-id", OUT, "import os\nopen('x', 'w')\nos.chmod('x', 0o4755)\nanswer = 42"),
    ("creat with set-user-id", OUT, system_call(85, "b'x'", 0o4755)),
    ("openat2 with set-user-id", OUT, system_call(437, -100, "b'x'", "buffer", 24)),
    ("a lock that others see", OUT,
     "import fcntl, os\nfcntl.flock(open(os.__file__), fcntl.LOCK_SH)\nanswer = 42"),
    ("a record lock that others see", OUT,
     "import fcntl, os\nfcntl.lockf(open(os.__file__), fcntl.LOCK_SH, 1, 42)\nanswer = 42"),
    ("hard link", OUT, "import os\nos.link('CANARY', 'x')\nanswer = 42"),
    ("symbolic link", OUT, "import os\nos.symlink('CANARY', 'x')\nopen('x').read()\nanswer = 42"),
    ("..", OUT, "open('../../../../../../../etc/passwd').read()\nanswer = 42"),
    ("/proc/self/root", OUT, "open('/proc/self/root/etc/passwd').read()\nanswer = 42"),
    ("other scratch directories", OUT, "import os\nanswer = 42 if os.listdir('..') else 0"),
    ("/tmp", OUT, "open('/tmp/owned-by-a-program', 'w').write('x')\nanswer = 42"),
    ("/dev/shm", OUT, "open('/dev/shm/owned-by-a-program', 'w').write('x')\nanswer = 42"),
    ("home directory", OUT,
     "import os\nopen(os.path.expanduser('~/owned-by-a-program'), 'w')\nanswer = 42"),
    ("fifo", OUT, "import os\nos.mkfifo('x')\nanswer = 42"),
    ("deep directory", OUT,
     "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nanswer = 42"),
    ("removes its scratch directory", OUT, "import os\nos.rmdir(os.getcwd())\nanswer = 42"),
    ("leaves files behind", "correct",
     "for n in range(20): open(f'left{n}', 'w').write('x')\nanswer = 42"),
    ("finds what others left", "wrong", "import os\nanswer = 42 if os.listdir('.') else 0"),
    ("plants a module", "correct",
     "open('json.py', 'w').write('x = 1')\nimport json\n"
     "answer = 42 if hasattr(json, 'loads') else 0"),

    # Network
    ("TCP", OUT, "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\nanswer = 42"),
    ("UDP", OUT,
     "import socket\n"
     "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nanswer = 42"),
    ("listens", OUT, "import socket\nsocket.create_server(('127.0.0.1', 0))\nanswer = 42"),
    ("unix socket", OUT, "import socket\nsocket.socket(socket.AF_UNIX).bind('s')\nanswer = 42"),
    ("abstract unix socket", OUT,
     "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0s')\nanswer = 42"),
    ("urllib", OUT,
     "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT/', timeout=1)\n"
     "answer = 42"),
    ("netlink", OUT, "import socket\nsocket.socket(16, 3, 0)\nanswer = 42"),

    # Forged rewards
    ("leaves without an answer", "error", "import os\nos._exit(0)"),
    ("result records, then exit", "error",
     "import os, struct\n"
     "for text in (b'42', b'o42', b'{\"status\": \"ok\", \"value\": \"42\"}', "
     "struct.pack('>IcI', 0, b'o', 2) + b'42'):\n    for fd in range(64):\n"
     "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)"),
    ("result records, then a wrong answer", OUT, "import os, struct\n"
     "for text in (b'42\\n', struct.pack('>IcI', 0, b'o', 2) + b'42'):\n    for fd in range(64):\n"
     "        try: os.write(fd, text)\n        except OSError: pass\nanswer = 1"),
    ("closes all descriptors", "error", "import os\nos.closerange(0, 64)\nanswer = 42"),
    ("puts a file in the pipe's place", "error",
     "import os\nos.dup2(os.open('x', os.O_CREAT | os.O_RDWR), 3)\nanswer = 42"),
    ("__eq__ that says yes", "wrong",
     "class Yes:\n    def __eq__(self, other): return True\nanswer = Yes()"),
    ("__repr__ that lies", "wrong",
     "class A:\n    __repr__ = __str__ = __format__ = lambda *a: '42'\nanswer = A()"),
    ("__float__ that lies", "wrong",
     "class A:\n    __float__ = lambda s: 42.0\n    __int__ = __index__ = lambda s: 42\n"
     "answer = A()"),
    ("int that lies", "wrong",
     "class A(int):\n    __repr__ = __str__ = lambda s: '42'\n"
     "    __add__ = lambda s, o: 42\nanswer = A(7)"),
    ("float that lies", "wrong",
     "class A(float):\n    __repr__ = __str__ = lambda s: '42'\nanswer = A(7)"),
    ("str that lies", "wrong",
     "class A(str):\n    split = lambda s: ['42']\n    __str__ = lambda s: '42'\nanswer = A('7')"),
    ("Decimal that lies", "wrong", "from decimal import Decimal\nclass A(Decimal):\n"
     "    __str__ = __repr__ = __format__ = lambda *a: '42'\nanswer = A(7)"),
    ("Fraction that lies", "wrong",
     "from fractions import Fraction\nclass A(Fraction):\n"
     "    numerator = _numerator = property(lambda s: 42, lambda s, value: None)\n"
     "answer = A(7)"),
    ("Fraction's own class lies", "wrong", "from fractions import Fraction\nanswer = Fraction(7)\n"
     "Fraction.numerator = property(lambda s: 42)\nFraction.__str__ = lambda s: '42'"),
    ("complex that lies", "wrong",
     "class A(complex):\n    real, imag = 42, 0\n    __complex__ = lambda s: 42 + 0j\n"
     "    __add__ = lambda s, o: 42\nanswer = A(7)"),
    ("list that lies", "wrong",
     "class A(list):\n    __iter__ = lambda s: iter([42])\n    __len__ = lambda s: 1\n"
     "answer = A()"),
    ("__class__ that lies", "wrong", "class A:\n    __class__ = int\nanswer = A()"),
    ("class named 42", "wrong", "answer = type('42', (), {})()"),
    ("pretends to be sympy's", "wrong",
     "class A:\n    is_number = is_real = is_Rational = True\n    p, q = 42, 1\n"
     "    __float__ = lambda s: 42.0\nA.__module__ = 'sympy.core.numbers'\nanswer = A()"),
    ("pretends to be sympy's Integer", "wrong",
     "import sympy\nclass Integer(sympy.Integer):\n    p, q = 42, 1\n"
     "    __float__ = lambda s: 42.0\nInteger.__module__ = 'sympy.core.numbers'\n"
     "sympy.core.numbers.Integer = sympy.Integer = Integer\nanswer = Integer(7)"),
    ("a part of sympy's sum lies", "wrong",
     "import sympy\nclass A(sympy.Symbol):\n    is_number = is_real = True\n"
     "    _eval_evalf = lambda s, p: sympy.Float(41)\nanswer = A('x') + 1"),
    ("pretends to be numpy's array", "wrong",
     "import numpy as np\nclass ndarray(np.ndarray):\n    size = 1\n"
     "    item = lambda s: 42\nndarray.__module__ = 'numpy'\n"
     "answer = np.array([7]).view(ndarray)"),
    ("pretends to be mpmath's", "wrong",
     "class mpf:\n    __float__ = lambda s: 42.0\n    _mpf_ = (0, 21, 1, 5)\n"
     "mpf.__module__ = 'mpmath.ctx_mp_python'\nanswer = mpf()"),
    ("pretends to be numpy's", OUT, "class A:\n    size = 2\nA.__module__ = 'numpy'\nanswer = A()"),
    ("__repr__ that loops", "wrong",
     "class A:\n    def __repr__(self):\n        while True: pass\nanswer = A()"),
    ("__reduce__ that loops", "wrong",
     "class A:\n    def __reduce__(self):\n        while True: pass\nanswer = A()"),
    ("exception whose text loops", "timeout",
     "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E"),
    ("exception whose text raises", "error",
     "class E(Exception):\n    def __str__(self): raise E\nraise E"),
    ("exception named correct", "error", "class correct(Exception): pass\nraise correct('42')"),
    ("BaseException", "error", "raise BaseException(42)"),
    ("KeyboardInterrupt", "error", "raise KeyboardInterrupt"),
    ("patched builtins", OUT,
     "import builtins\n"
     "for n in ('str', 'repr', 'len', 'isinstance', 'float', 'issubclass'):\n"
     "    setattr(builtins, n, lambda *a: True)\nanswer = 7"),
    ("deleted builtins", OUT,
     "import builtins\nfor n in list(vars(builtins)):\n    delattr(builtins, n)\nanswer = 7"),
    ("patched os", "correct",
     "import os\nos._exit = os.write = os.read = os.close = lambda *a: None\nanswer = 42"),
    ("patched json", "correct",
     "import json, struct\njson.loads = json.dumps = struct.pack = None\nanswer = 42"),
    ("cleared modules", "correct|error",
     "import sys\nsys.modules.clear()\nsys.exit = None\nanswer = 42"),
    ("no stdout", "correct", "import sys\nsys.stdout = None\nanswer = 42"),
    ("closed stdout", "correct", "import sys\nsys.stdout.close()\nanswer = 42"),
    ("detached stdout", "error", "import sys\nsys.stdout.detach()"),
    ("trace function that loops", "timeout",
     "import sys\ndef f(*a):\n    while True: pass\nsys.settrace(f)\ndef solution(): return 42"),
    ("looks for the gold answer in frames", OUT,
     "import sys\nf, answer = sys._getframe(), 0\nwhile f:\n"
     "    for v in list(f.f_locals.values()):\n"
     "        if type(v) is dict and v is not globals(): answer = v.get('answer', answer)\n"
     "    f = f.f_back"),
    ("looks for the gold answer in all objects", OUT,
     "import gc\n"
     "answer = next((o['answer'] for o in gc.get_objects() if type(o) is dict and "
     "type(o.get('answer')) is int), 0)"),
    ("looks for the gold answer in the environment", "wrong",
     "import os\nanswer = 42 if any('GOLD' in v or '42' in v for v in os.environ.values()) else 0"),
    ("segmentation fault", "error", "import ctypes\nctypes.string_at(0)"),
    ("abort", "error", "import os\nos.abort()"),
    ("broken C API call", "error|timeout", "import ctypes\nctypes.pythonapi.PyErr_SetString(0, 0)"),
]
