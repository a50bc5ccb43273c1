"""git keeps a repository in a bucket."""

from tests.programs.runs import Place, minio, twice, write_tree

__all__ = ["minio", "twice"]

# The index holds inode numbers; settings say that chmod does nothing (core.filemode), and where a
# clone comes from.
DIFFERING = (r"\.git/(index|config)$", r"clone/\.git/(logs/|packed-refs)")
SETTINGS = """
    export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_0=pack.threads GIT_CONFIG_VALUE_0=1
    export GIT_CONFIG_KEY_1=init.defaultBranch GIT_CONFIG_VALUE_1=main
    export GIT_CONFIG_KEY_2=safe.directory GIT_CONFIG_VALUE_2='*'
"""


def test_git_init_add_commit_gc_and_clone(twice):
    twice.sh(
        SETTINGS
        + """
        git init -q repo && cd repo
        mkdir -p src/deep
        for n in $(seq 30); do seq $n 500 > src/deep/$n.txt; done
        printf '#!/bin/sh\\n' > run.sh
        ln -s src/deep/1.txt link && ln -s nowhere src/dangling
        git add -A && git commit -qm one && git status --porcelain
        sed -i s/17/seventeen/ src/deep/3.txt && rm src/deep/4.txt && ln -sfn src link
        git mv src/deep/5.txt five.txt
        git commit -qam two && git log --stat --format=%H
        git checkout -qb side HEAD~1 && echo side > side.txt && git add side.txt
        git commit -qm side && git checkout -q main && git merge -q -m merged side
        echo later >> side.txt && git stash -q && git stash pop -q && git checkout -q .
        git tag -a -m tag v1 && git reset -q --hard HEAD~1 && git reset -q --hard v1
        git gc -q --prune=now && git fsck --strict && git status --porcelain
        cd .. && git clone -q repo clone && cd clone && git fsck --strict
        test "$(readlink link)" = src && git log --format=%H && git status --porcelain
        cd .. && rm -rf clone/.git/hooks && test ! -e clone/.git/hooks
        """
    )
    found = twice.compare(*DIFFERING)
    assert found["repo/link"] == b"src"
    assert found["clone/side.txt"] == b"side\n"


def test_two_programs_commit_at_once_and_no_commit_is_lost(twice, tmp_path):
    """index.lock is made with O_EXCL: the git that comes second says so, and tries again."""
    twice.mounted.sh(
        SETTINGS
        + """
        git init -q repo && cd repo
        commit() {
            for n in $(seq 8); do
                echo $n > $1-$n
                until git add $1-$n 2>/dev/null && git commit -qm "$1 $n" $1-$n 2>/dev/null
                do sleep 0.1; done
            done
        }
        commit a & commit b & wait
        git fsck --strict --no-dangling && git status --porcelain
        """
    )
    twice.unmount()
    write_tree(tmp_path / "fetched", twice.objects())
    fetched = Place(tmp_path / "fetched" / "repo", twice.local.env)
    assert fetched.sh(f"{SETTINGS}git fsck --strict --no-dangling; git status --porcelain") == ""
    subjects = fetched.sh(f"{SETTINGS}git log --format=%s").split("\n")
    assert sorted(filter(None, subjects)) == [f"{who} {n}" for who in "ab" for n in range(1, 9)]
