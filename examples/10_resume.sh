#!/bin/sh
# A run is killed in the middle, and the same command with --resume does the rest, each input once:
#
#   sh 10_resume.sh 500
#
# The numbers from 1 to 500 are factored; their results are lines of JSON in factors.jsonl, in the working directory.
set -e
seq "$1" > numbers.txt
rm -f factors.jsonl

zmqtasks ventilator --exec 'factor {}' numbers.txt --workers 2 -o factors.jsonl --no-progress &
while [ ! -s factors.jsonl ] && kill -0 $!; do sleep 0.01; done
kill -9 $!
wait $! || echo "killed: $?"

# An input that is there is not run again; a last line that was torn is cut off, and what it told of is done again. What
# was running at the kill has run twice: that is "at least once". In the output each input is once.
zmqtasks ventilator --exec 'factor {}' numbers.txt --workers 2 -o factors.jsonl --no-progress --resume
echo "lines: $(wc -l < factors.jsonl)"
echo "different inputs: $(cut -d, -f1 factors.jsonl | sort -u | wc -l)"
