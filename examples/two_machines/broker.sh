#!/bin/sh
# On the machine that the others can reach. `keys init` says which key file goes where; a second time it changes nothing.
set -e
zmqtasks keys init
exec zmqtasks broker --bind tcp://0.0.0.0:5555
