"""Reads the event files of a folder as TensorBoard's pages do and prints what it finds as JSON.

Usage: read_events.py FOLDER
"""

import json
import sys

from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util

KEEP_ALL = 10**6
guidance = {"scalars": KEEP_ALL, "histograms": KEEP_ALL, "text": KEEP_ALL}
events = plugin_event_accumulator.EventAccumulator(sys.argv[1], tensor_size_guidance=guidance)
events.Reload()


def plain(event):
    """A number, a list of [from, to, count] or a list of texts."""
    array = tensor_util.make_ndarray(event.tensor_proto)
    return [text.decode() for text in array] if array.dtype == object else array.tolist()


def points(plugin):
    return {tag: [[e.step, plain(e)] for e in events.Tensors(tag)] for tag in events.PluginTagToContent(plugin)}


found = {plugin: points(plugin) for plugin in guidance}
print(json.dumps(found | {"version": events.file_version}))
