#!/bin/bash
# Cargo starts each test binary through this, which says how many of its tests run at once: most of them wait more than they
# work, and those of the real binary take turns among themselves (tests/real/harness/turns.rs). Those that encode and decode
# have a core each. A number in the environment counts for all.
case ${1##*/} in
  headwater_origin-* | mp4-*) ;;
  *) export RUST_TEST_THREADS=${RUST_TEST_THREADS:-6} ;;
esac
exec "$@"
