"""The XenAPI language, shared by both ends: data model, records, errors, wire codecs, client session.

Pure: standard library only (and the XenAPI package, in session.py alone). It imports no other part of xenstack.
"""
