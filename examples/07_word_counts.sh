#!/bin/sh
# How often does each word stand in the lines of some files? Compressed ones too, as they are:
#
#   sh 07_word_counts.sh 'logs/*.txt' 'logs/*.gz'
#
# Lines go through words.py:count on two workers; words.py:add folds their results as they come, so that nothing but the
# sum is kept. It is printed as JSON, and here its first ten words with their counts.
set -e
words=$(dirname "$0")/words.py
zmqtasks ventilator "$words:count" "$@" --workers 2 --fold "$words:add" |
    tr -d '{} \n' | tr ',' '\n' | sort -t: -k2,2nr -k1,1 | head -n 10
