"""The clone: at the wanted commit, with the user's settings, checked before any work, and held by one."""

import fcntl
import shutil
import subprocess
import threading

import pytest
import yaml

from tasks import dvc, workspace
from tasks.errors import UserError
from tests import publishing as tiny

LOCAL = """['remote "other"']
    url = s3://bucket
    secret_access_key = hidden
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    base = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        tiny.settle(patch, base)
        yield tiny.project(base, url="../../store")


@pytest.fixture
def root(home):
    with workspace.clone_of(home) as root:
        yield root


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(workspace, "check", lambda root: None)


def test_a_branch_a_tag_or_a_commit(home, root, unchecked):
    first = tiny.run(home, "git", "rev-parse", "HEAD")
    tiny.run(home, "git", "push", "--quiet", "origin", "HEAD:refs/tags/v1")
    tiny.commit(home, **{"source.txt": "2"})
    second = tiny.run(home, "git", "rev-parse", "HEAD")
    for ref, expected in (("main", second), ("v1", first), (first[:9], first)):
        workspace.prepare(root, home, ref, {})
        assert tiny.run(root, "git", "rev-parse", "HEAD") == expected
    assert workspace.branch(root, "main")
    assert not workspace.branch(root, "v1")


@pytest.mark.parametrize(
    "ref", ["mian", "main~1", "main^0", "--upload-pack=touch evil", "", "-", "main evil"]
)
def test_an_unknown_ref_is_told_with_those_there_are(home, root, unchecked, ref):
    workspace.prepare(root, home, "main", {})
    with pytest.raises(UserError, match=r"no branch, tag or commit .*main"):
        workspace.commit(root, ref)
    assert not workspace.branch(root, ref)


def test_what_a_killed_run_left_is_no_hindrance_and_unfinished_work_stays(home, root, unchecked):
    workspace.prepare(root, home, "main", {"generate.seed": 7})
    kept = root / "data/.unfinished/train/recipe/state"
    for path in (root / ".git/index.lock", kept, root / "data/export/stale"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left")
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / "make.py").write_text("cut off in the middle")
    root.chmod(0o755)
    workspace.prepare(root, home, "main", {})
    assert root.stat().st_mode & 0o77 == 0
    assert kept.exists()
    assert not (root / "data/export").exists()
    assert not (root / "dvc.lock").exists()
    assert tiny.run(root, "git", "status", "--porcelain") == ""


def test_cache_and_folder_remotes_are_the_users(home, root, unchecked):
    (home / ".dvc/config.local").write_text(LOCAL)
    workspace.prepare(root, home, "main", {})
    with dvc.opened(root) as own, dvc.opened(home) as users:
        assert own.cache.local.path == users.cache.local.path == str(home / ".dvc/cache/files/md5")
        remotes = own.config["remote"]
    assert remotes["store"]["url"] == str(home.parent / "store")
    assert (remotes["other"]["url"], remotes["other"]["secret_access_key"]) == ("s3://bucket", "hidden")
    assert root.stat().st_mode & 0o77 == 0
    assert tiny.run(root, "git", "status", "--porcelain") == ""


def test_settings_in_any_alphabet_and_in_two_files(tmp_path, monkeypatch, unchecked):
    """DVC itself writes ASCII alone, and refuses a file that holds half of a remote."""
    tiny.settle(monkeypatch, tmp_path)
    home = tiny.project(tmp_path / "jörg", settings="['remote \"half\"']\n    region = eu\n")
    local = f"['remote \"half\"']\n    url = s3://bucket/größe\n['cache']\n    dir = '{tmp_path}/ä, #b'\n"
    (home / ".dvc/config.local").write_text(local)
    with workspace.clone_of(home) as root:
        workspace.prepare(root, home, "main", {})
    with dvc.opened(root) as own, dvc.opened(home) as users:
        assert own.cache.local.path == users.cache.local.path
        assert own.config["remote"]["half"] == users.config["remote"]["half"]
        assert own.config["remote"]["half"]["url"] == "s3://bucket/größe"
        assert own.config["remote"]["store"]["url"] == str(home.parent / "store")


def test_params_that_dvc_can_not_read_are_told_in_our_words(home, root):
    """Outs of an earlier run lie there, which DVC is to look at."""
    sound = (home / "params.yaml").read_text()
    with_date = sound.replace("license: other", "license: 2026-11-22")
    assert with_date != sound
    tiny.commit(home, **{"params.yaml": with_date})
    try:
        with pytest.raises(UserError, match=r"export\.license: found datetime"):
            workspace.prepare(root, home, "main", {})
    finally:
        tiny.commit(home, **{"params.yaml": sound})


@pytest.mark.parametrize("changes", [{}, {"train.seed": 1}])
def test_a_ref_that_holds_no_project_is_told(home, root, changes):
    empty = tiny.run(home, "git", "commit-tree", "-m", "pages", tiny.run(home, "git", "mktree"))
    tiny.run(home, "git", "push", "--quiet", "--force", "origin", f"{empty}:refs/heads/pages")
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        workspace.prepare(root, home, "pages", changes)


@pytest.mark.parametrize("name", ["", ".git"])
def test_a_file_where_the_clone_should_be(home, root, unchecked, name):
    workspace.prepare(root, home, "main", {})
    shutil.rmtree(root / name)
    (root / name).write_text("")
    try:
        if name:
            workspace.prepare(root, home, "main", {})
            assert tiny.run(root, "git", "status", "--porcelain") == ""
        else:
            with pytest.raises(UserError, match="is no folder"):
                workspace.prepare(root, home, "main", {})
    finally:
        if root.is_file():
            root.unlink()


def test_a_shallow_origin(tmp_path, monkeypatch, unchecked):
    """As CI systems make them."""
    tiny.settle(monkeypatch, tmp_path)
    home = tiny.project(tmp_path)
    tiny.commit(home, **{"source.txt": "2"})
    origin, shallow = tmp_path / "origin.git", tmp_path / "shallow.git"
    tiny.run(tmp_path, "git", "clone", "--quiet", "--bare", "--depth=1", origin.as_uri(), str(shallow))
    tiny.run(home, "git", "remote", "set-url", "origin", str(shallow))
    with workspace.clone_of(home) as root:
        workspace.prepare(root, home, "main", {})
    assert (root / "source.txt").read_text() == "2"


def test_a_hook_of_the_users_does_not_run_there(home, root, unchecked, tmp_path, monkeypatch):
    hook = tmp_path / "hooks/post-checkout"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "config").write_text(f"[core]\n\thooksPath = {hook.parent}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    workspace.prepare(root, home, "main", {})


def test_a_clone_that_was_cut_off_while_it_was_made_is_mended(home, root, unchecked):
    shutil.rmtree(root, ignore_errors=True)
    (root / ".git").mkdir(parents=True)
    (root / ".git/config.lock").write_text("")
    workspace.prepare(root, home, "main", {})
    assert tiny.run(root, "git", "rev-parse", "--show-toplevel") == str(root)


def test_origin_is_reached_by_ssh_as_the_user_reaches_it(tmp_path, monkeypatch):
    """By the tree's own command, which asks nothing, or by the environment's, which says all itself."""
    home, said = tmp_path / "home", tmp_path / "said"
    home.mkdir()
    tiny.run(home, "git", "init", "--quiet")
    tiny.run(home, "git", "remote", "add", "origin", "ssh://git@nowhere/team/digits.git")
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {said}\nexit 1\n')
    ssh.chmod(0o755)
    tiny.run(home, "git", "config", "core.sshCommand", f"{ssh} -i deploy")
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    for expected in ("-i deploy -o BatchMode=yes -o ConnectTimeout=30 ", "-i mine "):
        with pytest.raises(UserError, match="fetch: failed"):
            workspace.prepare(tmp_path / "clone", home, "main", {})
        assert said.read_text().startswith(expected)
        monkeypatch.setenv("GIT_SSH_COMMAND", f"{ssh} -i mine")


def test_origin_is_reached_by_the_trees_own_settings(home, root, unchecked):
    wanted = {
        "credential.helper": ["cache", "store"],
        "http.https://host/.extraheader": ["Authorization: hidden"],
        "url.git@host:.insteadof": ["https://host/"],
    }
    for key, values in wanted.items():
        for value in values:
            tiny.run(home, "git", "config", "--add", key, value)
    workspace.prepare(root, home, "main", {})
    try:
        for key, values in wanted.items():
            assert tiny.run(root, "git", "config", "--local", "--get-all", key).splitlines() == values
    finally:
        for key in wanted:
            tiny.run(home, "git", "config", "--unset-all", key)
    workspace.prepare(root, home, "main", {})
    assert workspace._settings(root) == []


@pytest.mark.parametrize("broken", ["index", "HEAD", "refs/remotes/origin/main", "object", "config.local"])
def test_a_clone_that_a_power_cut_broke_is_made_again(home, root, unchecked, broken):
    """It leaves files empty, or full of zeros. The clone has published: a lock lies in it."""
    workspace.prepare(root, home, "main", {})
    unfinished = root / "data/.unfinished/train/state"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text("work")
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    digest = tiny.run(root, "git", "rev-parse", "HEAD").strip()
    tree = tiny.run(root, "git", "rev-parse", "HEAD^{tree}").strip()
    paths = {"object": f".git/objects/{tree[:2]}/{tree[2:]}", "config.local": ".dvc/config.local"}
    path = root / paths.get(broken, f".git/{broken}")
    if not path.exists():  # they came packed
        packs = [pack.rename(root / pack.name) for pack in (root / ".git/objects/pack").glob("*.pack")]
        for pack in packs:
            command = ["git", "unpack-objects", "-q"]
            subprocess.run(command, cwd=root, stdin=pack.open("rb"), check=True)
    path.chmod(0o644)
    path.write_bytes(b"" if broken != "config.local" else bytes(100))
    for _ in range(2):
        workspace.prepare(root, home, "main", {})
        assert tiny.run(root, "git", "rev-parse", "HEAD").strip() == digest
    assert unfinished.read_text() == "work"


def test_a_new_token_is_not_a_new_clone(tmp_path):
    tiny.run(tmp_path, "git", "init", "--quiet")
    tiny.run(tmp_path, "git", "remote", "add", "origin", "https://host/digits.git")
    places = {workspace.place(tmp_path)}
    for login in ("me:one", "me:t@o"):
        tiny.run(tmp_path, "git", "remote", "set-url", "origin", f"https://{login}@host/digits.git")
        places.add(workspace.place(tmp_path))
    assert len(places) == 1
    tiny.run(tmp_path, "git", "remote", "set-url", "origin", "https://me:one@elsewhere/digits.git")
    assert workspace.place(tmp_path) not in places


def test_a_wrong_override_is_told_before_any_work(home, root):
    with pytest.raises(UserError, match=r"generate\.sed: unknown key; did you mean 'seed'\?"):
        workspace.prepare(root, home, "main", {"generate.sed": 1})
    assert yaml.safe_load((root / "params.yaml").read_text())["generate"]["sed"] == 1
    with pytest.raises(UserError, match=r"train\.images: found 'many'"):
        workspace.prepare(root, home, "main", {"train.images": "many"})


def test_one_run_at_a_time_holds_it(home, root):
    lock = root.with_name(root.name + ".lock")
    with lock.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_runs_at_once_queue(home):
    entered = threading.Event()

    def other():
        with workspace.clone_of(home):
            entered.set()

    with workspace.clone_of(home):
        threading.Thread(target=other, daemon=True).start()
        assert not entered.wait(0.1)
    assert entered.wait(30)


def test_a_cache_folder_that_can_not_be_made_is_told(home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Not a directory.*XDG_CACHE_HOME"), workspace.clone_of(home):
        pass


def test_a_tree_without_origin_is_cloned_itself(home, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(home, alone)
    tiny.run(alone, "git", "remote", "remove", "origin")
    assert workspace.origin(alone) == str(alone)
    shutil.rmtree(alone / ".git")
    with pytest.raises(UserError, match="not a git repository"):
        workspace.origin(alone)
