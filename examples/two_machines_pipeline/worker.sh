#!/bin/sh
# On each machine that works, with worker.key beside it: sh worker.sh HOST. It may come and go at any time, more than one
# of them too, and it ends with the pipeline. Results go from here straight to the sink, which the ventilator has told.
exec zmqtasks worker --ventilator "tcp://$1:5557" --key worker.key
