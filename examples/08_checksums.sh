#!/bin/sh
# Checksums of files, two at a time, in the order of the files: sh 08_checksums.sh *.iso
#
# GNU parallel says it so:   parallel -j2 -k sha256sum {} ::: "$@"
# and xargs:                 printf '%s\0' "$@" | xargs -0 -P2 -n1 sha256sum     (in whatever order, lines may mix)
#
# {} is quoted where it has to be: a name may hold blanks, quotes and $. A file that cannot be read is named on standard
# error, the others are done, and the exit code is 1. With -o sums.jsonl there would be a line of JSON for each file,
# with the exit code and what the command wrote, and after a kill --resume would do those that are missing.
exec zmqtasks ventilator --exec 'sha256sum {}' --workers 2 --ordered --no-progress ::: "$@"
