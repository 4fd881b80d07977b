#!/bin/sh
# On each machine that works, with worker.key beside it: sh worker.sh HOST
exec zmqtasks worker "tcp://$1:5555" --key worker.key
