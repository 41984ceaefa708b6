"""One reader a file format. A new format is one module here and its name in `READERS`; nothing else lists formats.

A reader is a module with these five names (`contract.Reader` has their types):

- `FORMAT`: the format's name, which is the module's name too;
- `FEATURES_ARE_NORMALIZED`: whether the publisher has already standardised the features of such files;
- `recognizes(path, head)`: whether a file or folder is in this format, decided by its content and never by its name.
  For data that is almost in this format but cannot be read, it raises a `DataError` that says how to make it readable;
- `files(path)`: the files that are read, none where there is no such data; a cache lives while they do not change;
- `read(path, options)`: opens the data; a `DataError` says why it cannot be opened.

A reader that takes options which the others refuse names them in `OPTIONS`.

The other modules of this folder are shared by several readers.
"""

# In the order in which they are tried: those that have to unpickle a file come last.
READERS = (
    *("computational_sequence", "meld", "sst", "table"),
    *("mag_pickle", "misa_pickle", "mmsa_pickle", "mult_pickle", "sample"),
)
