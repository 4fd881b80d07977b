#!/bin/sh
# On the machine that the other can reach. It reads numbers.txt, writes factors.jsonl, and waits until workers come.
# `keys init` says which key file goes to them; a second time it changes nothing. With --workers N this machine works too.
set -e
zmqtasks keys init
seq 1000 > numbers.txt
exec zmqtasks ventilator --exec 'factor {}' numbers.txt --bind tcp://0.0.0.0:5557 -o factors.jsonl --overwrite
