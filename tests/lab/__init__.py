"""The lab: real strongSwan on a real kernel, in network namespaces, and the stories that are told in it.

::

                                      router ("the internet")
     terminal 1                     +---------------------------+
    +-----------+ wlan0             | wlan  198.51.100.1 (bridge)|           gateway                    server
    |           +-------------------+                           |         +-----------+              +---------+
    | 198.51.100.11 (while on wlan) |                           | wan     | wan0      |              | eth0    |
    |           | lte0              |                 192.0.2.254+---------+ 192.0.2.1 |              | 10.1.0.10
    |           +-------------------+ lte   203.0.113.1 (bridge) |         |      lan0 +--------------+         |
    | 203.0.113.11 (while on lte)   |                           |         |  10.1.0.1 |              |         |
    +-----------+ inner: 10.9.0.x   +------------+--------------+         +-----------+              +---------+
     terminal 2 ...                              |
     (198.51.100.12, 203.0.113.12)   10 ms of delay towards wan, and towards each access link: RTT 20 ms

A link may be behind a NAT (`nats`), whose private addresses terminals have there.

There is a third link, eth0, 198.18.3.11, where a topology says so.

A terminal has one outer address at a time, on one of its links, and its default route there. A move takes it away
and gives it the address on the other link. Every host has an agent (`agent/`), which sends and receives streams and
captures packets; charon runs on terminals and gateway, swanroam where a story starts it.
"""
