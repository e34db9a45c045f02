"""A stage is told no key but Prefect's, a store none of Prefect's, and no log any."""

import pytest

from tasks.secrets import for_stage, for_stores, hidden, keyed

GIVEN = {
    "PATH": "/bin",
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "1",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "AWS_PROFILE": "me",
    "GITHUB_TOKEN": "github",
    "SSH_AUTH_SOCK": "/run/agent",
    "SLACK_WEBHOOK": "https://hooks",
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_API_KEY": "prefect",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql://u:p@db",
    "GIT_DIR": "/elsewhere/.git",
    "DATABASE_URL": "postgresql+asyncpg://u:p@db/x",
    "PIP_INDEX_URL": "https://u:p@host/simple",
    "MYSQL_PWD": "p",
    "REDIS_PASS": "p",
    "GPG_PASSPHRASE": "p",
    "GITLAB_PAT": "p",
    "HTTP_AUTHORIZATION": "Basic p",
    "https_proxy": "http://u:p@proxy:8080",
    "DATA_URL": "https://host/a@b",
}


def test_what_a_stage_may_know():
    assert set(for_stage(GIVEN, "train")) == {
        "PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PREFECT_API_URL", "PREFECT_API_KEY",
        "https_proxy", "DATA_URL",
    }  # fmt: skip


def test_ingest_may_know_the_keys_of_its_sources():
    more = set(for_stage(GIVEN, "ingest")) - set(for_stage(GIVEN, "train"))
    assert {"AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} <= more
    assert not [name for name in more if name.startswith(("PREFECT_", "GIT_", "SSH_"))]


def test_what_git_and_dvc_may_know():
    hidden_from_them = {
        "PREFECT_API_URL",
        "PREFECT_API_KEY",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        "GIT_DIR",
    }
    assert set(for_stores(GIVEN)) == GIVEN.keys() - hidden_from_them


def test_no_line_shows_a_password(monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_0123456789")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "no secret")
    assert hidden("no secret: postgresql://u:p@ss@db/x") == "no secret: postgresql://***@db/x"
    monkeypatch.setenv("SOME_KEY", "short")
    said = "fatal: https://me:ghp_x@host/repo and ghp_0123456789, no short one; s3://bucket/a@b stays"
    assert hidden(said) == "fatal: https://***@host/repo and ***, no short one; s3://bucket/a@b stays"


def test_no_line_of_a_key_is_shown(monkeypatch):
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\nabcdefghijkl\nab\n")
    assert hidden("read abcdefghijkl, about it") == "read ***, about it"


def test_no_token_of_a_query_is_shown():
    said = "found 'https://host/x.zip?v=1&sig=abc%3D&X-Amz-Signature=def'. https://host/y?key=z"
    assert hidden(said) == "found 'https://host/x.zip?v=1&sig=***&X-Amz-Signature=***'. https://host/y?key=z"


@pytest.mark.parametrize(
    ("url", "holds"),
    [
        ("https://ghp_token@host/x.zip", True),
        ("s3://me:p@bucket/x", True),
        ("https://host/x.zip?sv=1&sig=abc%3D", True),
        ("https://host/x.zip?X-Amz-Credential=a&X-Amz-Signature=b", True),
        ("https://host/x.zip?access_token=a", True),
        ("https://host/x.zip?AWSAccessKeyId=a", True),
        ("tls://u:p@host:8786", True),
        ("ssh://git@host/x", False),
        ("https://host/x.zip?key=photos&design=2&signal=1", False),
        ("s3://bucket/a@b", False),
        ("/photos/a@b?token", False),
    ],
)
def test_a_url_that_lets_whoever_has_it_in(url, holds):
    assert keyed(url) is holds
