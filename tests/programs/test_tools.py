"""The tools that people copy, unpack and edit files with."""

import pytest

from tests.programs.runs import minio, twice

__all__ = ["minio", "twice"]

# 60 files of up to 60 KB, empty ones and directories, odd names, links
TREE = """
    mkdir -p "$1/a/b c" "$1/empty" "$1/é"
    for n in $(seq 60); do seq $((n * 150)) > "$1/a/$n"; done
    : > "$1/a/none" && echo x > "$1/a/b c/ y" && echo z > "$1/é/ü" && echo h > "$1/a/.hidden"
    ln -s a/1 "$1/link" && ln -s ../a "$1/é/up" && ln -s nowhere "$1/dangling"
    touch -d @1600000000 "$1"/a/*
"""


@pytest.fixture
def tree(twice):
    """A tree outside both places, as $TREE."""
    for place in (twice.local, twice.mounted):
        place.env["TREE"] = place.env["SCRIPTS"] + "/tree"
    twice.local.sh(f"set -- $TREE\n{TREE}")
    return twice


def test_tar_unpacks_and_packs_links_and_empty_directories(tree):
    tree.sh(
        """
        tar -C $TREE -cf - . | tar -xf - && diff -r --no-dereference $TREE .
        test "$(readlink é/up)" = ../a && cat link | head -3
        tar -czf ../packed.tgz . && tar -tzf ../packed.tgz | sort && rm ../packed.tgz
        tar --sort=name --mtime=@0 -cf all.tar a && tar -tf all.tar | wc -l
        tar -xf all.tar && diff -r $TREE/a a
        """
    )
    tree.compare(r"all\.tar")


def test_rsync_copies_and_a_second_run_copies_nothing(tree):
    tree.sh(
        """
        rsync -r --size-only $TREE/ copy/ 2>/dev/null && diff -r $TREE/a copy/a
        rsync -r --size-only --itemize-changes $TREE/ copy/ 2>/dev/null
        echo more >> copy/a/3 && rsync -r --size-only --itemize-changes $TREE/ copy/ 2>/dev/null
        rsync -rlt $TREE/ times/ && rsync -rlt --itemize-changes $TREE/ times/
        rsync -rl --inplace --checksum $TREE/ times/ && rm times/a/5
        rsync -rl --delete --size-only --itemize-changes times/ copy/
        diff -r --no-dereference times copy
        """
    )
    found = tree.compare()
    assert found["times/link"] == b"a/1"
    assert not [path for path in found if ".3." in path]


def test_cp_a_mv_ln_and_rm(tree):
    tree.sh(
        """
        cp -a $TREE one && cp -a one two && diff -r --no-dereference $TREE two
        mv two three && mv three/a three/moved && diff -r $TREE/a three/moved
        ln -s one/a here && ln -sfn three/moved here && readlink here && ls here | wc -l
        ln -s x loop && ln -sf loop loop2 && mv -T loop2 loop && readlink loop
        (cd one && ln -sf ../three abs && cat abs/moved/1 | wc -l)
        rm -r one && test ! -e one && test -e three/moved/1
        mv -n three/moved/1 three/moved/2 ; echo q > q && mv -f q three/link && cat three/link
        ln -s q three/q && mv -f three/q three/moved/7 && readlink three/moved/7
        cp --remove-destination three/moved/8 three/dangling && cmp three/moved/8 three/dangling
        find . -type l | sort && du -a --apparent-size three/moved | wc -l
        install -D -m 644 three/moved/9 bin/nine && cmp bin/nine three/moved/9
        """
    )
    tree.compare()


def test_zip_and_unzip(tree):
    tree.sh(
        """
        cd $TREE && zip -qry $SCRIPTS/all.zip . && cd - >/dev/null
        unzip -qo $SCRIPTS/all.zip && diff -r --no-dereference $TREE .
        unzip -qo $SCRIPTS/all.zip && diff -r --no-dereference $TREE .
        zip -qry here.zip a && zip -q here.zip dangling a/1 2>/dev/null || true
        unzip -tq here.zip && rm $SCRIPTS/all.zip
        """
    )
    tree.compare(r"here\.zip")


def test_editors_write_in_place_by_rename_and_with_backups(tree):
    tree.sh(
        """
        cp $TREE/a/50 f && cp f g && cp f h && cp f i && cp f p
        sed -i 's/7/seven/; 3d' f && sed -i.bak 2d f && perl -pi -e 's/9/nine/' p
        edit() { local file=$1; shift; vim -Nu NONE -es "$@" -c wq $file < /dev/null; }
        edit g -c '%s/1/one/g' && edit fresh -c 'normal inew'
        edit h -c 'set backup backupcopy=yes writebackup' -c 'normal Goend'
        edit i -c 'set backupcopy=no undofile undodir=.' -c 'normal ggdd'
        ls -A && md5sum f f.bak g h i p fresh && ed -s f <<< $'1d\\nw\\nq' || true
        diff g h > d || true; cp g patched && patch -s patched d && cmp patched h
        sort -o f f && sort -R f > /dev/null && split -l 100 f part. && cat part.* | cmp - f
        """
    )
    found = tree.compare(r"\.un~$")
    assert not [path for path in found if path.endswith(".swp")]


def test_shells_append_redirect_and_share_descriptors(tree):
    tree.sh(
        """
        for n in $(seq 40); do echo $n >> log; done; wc -l < log
        repeat() { for n in $(seq 20); do echo $1 >> both; done; }
        repeat a & repeat b; wait; sort both | uniq -c
        { echo one; ls -d . ; echo two >&2; } > out 2>&1; cat out
        exec 3<> rw; echo first >&3; echo second >&3; exec 3>&-; cat rw
        cat < log > copy && cat log log >> copy && truncate -s 50 copy && truncate -s 100 copy
        dd if=/dev/zero of=copy bs=1 seek=20 count=5 conv=notrunc status=none; md5sum copy
        dd if=/dev/urandom bs=1M count=3 status=none | tee a b > c; cmp a b && cmp b c
        echo done | tee -a log | cat >> out; tail -n 1 log out
        truncate -s 1M sparse; echo end >> sparse; md5sum sparse
        rm a b c
        """
    )
    tree.compare("both")
